"""The data stages on the engines of a cluster make the bytes of one machine.

Also if a worker is killed.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import new_project
from tests.cluster.local_ray import running_ray
from tests.cluster.slurm import Slurm
from tests.faults.kills import started, wait_until
from tests.project import Workspace
from toygpt.pipeline.files import sha256_of

pytestmark = pytest.mark.cluster

# Without a limit, the files are read by workers as well.
SHARDS = {"download.shard_bytes": 200, "download.max_documents": None}


def data_of(workspace: Workspace) -> dict[str, str]:
    """Return the digests of all files that the data stages have written."""
    root = workspace.root
    files = [path for path in (root / "data").rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): sha256_of(path) for path in files}


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what one process makes of the text."""
    changes = SHARDS | {"runtime.data_workers": 1}
    workspace = new_project(tmp_path_factory.mktemp("local") / "project", changes)
    workspace.dvc("repro", "split")
    found = data_of(workspace)
    assert "data/splits/train-00002.bin" in found
    return found


@pytest.fixture(scope="session")
def local_ray() -> Iterator[dict[str, str]]:
    """Return the variables by which a Ray cluster is found."""
    need("ray", extra="ray")
    with running_ray() as variables:
        yield variables


@pytest.fixture
def on_slurm(slurm: Slurm, tmp_path: Path) -> Workspace:
    """Return a project whose shards are worked on by jobs of Slurm."""
    need("submitit", extra="slurm")
    changes = SHARDS | {"runtime.data_engine": "slurm"}
    workspace = new_project(tmp_path / "project", changes)
    workspace.environment |= slurm.environment
    return workspace


@pytest.fixture
def on_ray(local_ray: dict[str, str], tmp_path: Path) -> Workspace:
    """Return a project whose shards are worked on by tasks of Ray."""
    changes = SHARDS | {"runtime.data_engine": "ray"}
    workspace = new_project(tmp_path / "project", changes)
    workspace.environment |= local_ray
    return workspace


def need(package: str, *, extra: str) -> None:
    """Fail if a package is not installed."""
    if find_spec(package) is None:
        pytest.fail(f"no {package}: uv run --extra {extra} pytest -m cluster")


def worker_of(
    workspace: Workspace, is_worker: Callable[[list[str]], bool]
) -> int | None:
    """Return the id of a process that works on a shard of a project."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            inside = Path(process.cwd()).is_relative_to(workspace.root)
            if inside and is_worker(process.cmdline()):
                return process.pid
    return None


def is_worker_of_slurm(words: list[str]) -> bool:
    """Return whether a command line is that of a worker, and not of its `srun`."""
    return "submitit.core._submit" in words and "srun" not in words[0]


def is_worker_of_ray(words: list[str]) -> bool:
    """Return whether a command line is that of a worker which has work."""
    return words[0].startswith("ray::") and "IDLE" not in words[0]


@pytest.mark.parametrize("engine", ["on_slurm", "on_ray"])
def test_an_engine_makes_the_bytes_of_one_machine(
    engine: str, expected: dict[str, str], request: pytest.FixtureRequest
) -> None:
    workspace: Workspace = request.getfixturevalue(engine)

    workspace.dvc("repro", "split")

    assert data_of(workspace) == expected


@pytest.mark.parametrize(
    ("engine", "is_worker"),
    [("on_slurm", is_worker_of_slurm), ("on_ray", is_worker_of_ray)],
)
def test_a_worker_that_is_killed_costs_its_shard(
    engine: str,
    is_worker: Callable[[list[str]], bool],
    expected: dict[str, str],
    request: pytest.FixtureRequest,
) -> None:
    workspace: Workspace = request.getfixturevalue(engine)
    workspace.dvc("repro", "download")

    with started(workspace, "dvc", "repro", "split") as command:
        worker = wait_until(lambda: worker_of(workspace, is_worker))
        os.kill(worker, 9)
        assert command.wait() == 0, command.output

    assert ": its worker was killed (" in command.output
    assert data_of(workspace) == expected
