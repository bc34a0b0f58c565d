"""What every test shares: one thread, checked shapes, no settings from outside."""

import gc
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# All tests are imported a sixth faster if no garbage is looked for among them.
gc.disable()

# Before toygpt is imported: calls are checked against the shapes in their annotations.
install_import_hook(
    ["toygpt.model", "toygpt.generation", "toygpt.explaining", "toygpt.data.batches"],
    "beartype.beartype",
)

import torch  # noqa: E402

from tests.project import (  # noqa: E402
    PROJECT,
    SETTINGS_FROM_OUTSIDE,
    Workspace,
    build,
)
from toygpt.cli import main  # noqa: E402

# A shell lets its background processes ignore Ctrl-C, and their children inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On small models threads cost more than they bring, here and in child processes.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# The time of an example is not what is tested: other load may slow it down.
settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")


class Output(NamedTuple):
    """The exit code of a command, and its two streams."""

    code: int
    out: str
    err: str


Toygpt = Callable[..., Output]

# The files of half a minute, and a folder of them: begun last, they would leave all but
# one core idle. The second needs no `built` project, for which it would have to wait.
LONGEST_FIRST = [
    "tests/test_pipeline.py",
    "tests/faults/test_train_faults.py",
    "tests/tracking/",
    "tests/cli/test_report.py",
    "tests/test_experiments.py",
    "tests/resuming/test_pipeline_resume.py",
    "tests/test_storage.py",
    "tests/training/test_sharding.py",
    "tests/resuming/test_resume_training.py",
    "tests/test_workflows.py",
    "tests/test_gpu_benchmark.py",
]
# Tests of half an hour, and of gigabytes: they run where `-m` names their marker.
ON_REQUEST = ["chaos", "cluster", "lm_eval"]


@pytest.hookimpl(tryfirst=True)  # before `-m` is applied
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out the tests that run on request alone; put the longest files first."""
    for item in items:
        if "built" in getattr(item, "fixturenames", ()):  # it takes half a minute
            item.add_marker(pytest.mark.slow)
    markers = [name for name in ON_REQUEST if name not in config.option.markexpr]

    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(PROJECT).as_posix()
        ranks = (n for n, start in enumerate(LONGEST_FIRST) if name.startswith(start))
        return next(ranks, len(LONGEST_FIRST))

    left_out = [item for item in items if any(map(item.get_closest_marker, markers))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = sorted((item for item in items if item not in left_out), key=rank)


def pytest_collection_finish() -> None:
    """Collect garbage again, now that all tests are imported."""
    gc.enable()


def pytest_unconfigure() -> None:
    """Unfreeze all objects: Triton complains of those that outlive Python."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a surrounding `dvc repro`, tracker or hub from leaking into a test."""
    for variable in os.environ:
        if variable.startswith(SETTINGS_FROM_OUTSIDE):
            monkeypatch.delenv(variable)


@pytest.fixture
def all_children_end() -> Iterator[None]:
    """Check that a test leaves no process; this one may have others already."""
    before = active_children()
    yield
    assert not set(active_children()) - set(before)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which temporary files are made."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def toygpt(capfd: pytest.CaptureFixture[str]) -> Toygpt:
    """Return a function that runs a command of toyGPT in this process."""

    def run(*arguments: object) -> Output:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse knows no other way
            assert isinstance(ended.code, int)
            code = ended.code
        return Output(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a tiny project after its `dvc repro`, for all tests to read, not change.

    One process builds it, and the others wait; if it fails, no other tries again.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the same for all workers
    folder = folder / "built"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            build(folder / "project")
            (folder / "is-done").touch()
    if not (folder / "is-done").exists():
        pytest.fail("another process could not build the project: see its error")
    return Workspace(folder / "project")


@pytest.fixture
def project(built: Workspace, tmp_path: Path) -> Workspace:
    """Return a copy of that project, for one test to change."""
    return built.copy_to(tmp_path / "project")
