"""A process beside the stage logs its run, whichever of the two is ended, and how."""

import shutil
import sys
from pathlib import Path

import psutil
import pytest

from tests.faults.audit import audit
from tests.faults.kills import started, wait_until
from tests.project import PATIENCE_SECONDS, PROJECT, Workspace
from tests.tracking.trackers import (
    end_wandb,
    mlflow_runs,
    record_in,
    run_in,
)
from toygpt.tracking.wandb_files import read_runs

HAS_FOLLOWERS = True  # see conftest.py

pytestmark = pytest.mark.slow

# Logs eight points; when it is killed, MLflow has six of them, or more.
AT_WORK = """
import time
from pathlib import Path
from tests.faults.kills import wait_until
from tests.tracking.trackers import log, run_in, tracked_by
from toygpt.tracking.mlflow import points_in_mlflow

root = Path.cwd()  # as a stage
with run_in(root, tracked_by("mlflow", "wandb")) as run:
    log(run, range(1, 7))
    wait_until(lambda: len(points_in_mlflow(run.record.info, root) or {}) == 12)
    log(run, range(7, 9))
    print("halfway", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """Return the project of a training with both trackers that was killed.

    It left temporary files in the project alone. The project lies deep: a socket's path
    may have 107 bytes at most.
    """
    folder = tmp_path_factory.mktemp("killed")
    root = folder / ("deep" * 15) / ("folder" * 10)
    for path in (root, folder / "tmp"):
        path.mkdir(parents=True)
    shutil.copy(empty_database, root)
    workspace = Workspace(root)
    workspace.environment |= {
        "TMPDIR": str(folder / "tmp"),
        "HOME": str(folder),
        "PYTHONPATH": str(PROJECT),
    }
    temporary = root / ".toygpt" / "wandb" / "tmp"
    with started(workspace, sys.executable, "-c", AT_WORK) as command:
        wait_until(lambda: "halfway" in command.output or not command.is_running)
        process = psutil.Process(command.process.pid)
        children = process.children(recursive=True)
        sockets = list(temporary.glob(f"*/wandb-{process.pid}-*/socket"))
        process.kill()
        _, alive = psutil.wait_procs(children, timeout=PATIENCE_SECONDS)

    assert not alive, "W&B's process ends by itself when there is nothing to follow"
    assert len(sockets) == 1
    assert list(temporary.glob("*/*")), "it was killed"
    outside = Path("/tmp").glob(f"wandb-{process.pid}-*")
    assert [*(folder / "tmp").iterdir(), *outside] == []
    return root


@pytest.mark.slow
def test_a_resumed_training_continues_its_runs(killed: Path, tmp_path: Path) -> None:
    """Its end is in no tracker; some of its steps are repeated."""
    root = Path(shutil.copytree(killed, tmp_path / "root"))
    before, record = record_in(killed), record_in(root)
    for step in (9, 10):  # logged, and then the power failed
        record.append({"loss": 1 / step, "speed": 10.0 * step}, step=step)
    with (record.folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 11, "tim')

    with run_in(root, BOTH) as run:
        (meanwhile,) = mlflow_runs(root)
        for step in range(7, 15):
            run.log_metrics({"loss": 2 / step, "speed": 20.0}, step=step)
        run.log_metrics({"parameters": 123.0})
    end_wandb()

    record = record_in(root)
    assert len(before.points) == 8, "no point was lost with the process"
    assert record.points[:8] == before.points
    assert [point.step for point in record.points] == [*range(1, 15), None], "no gap"
    assert audit(root) == []
    (in_mlflow,) = mlflow_runs(root)
    assert mlflow_runs(killed)[0].info.status == meanwhile.info.status == "RUNNING"
    assert in_mlflow.data.tags["resumed.after"] == "its process is gone"
    assert [part.exit_code for part in read_runs(root)] == [None, 0]
    (temporary,) = (root / ".toygpt" / "wandb" / "tmp").iterdir()
    assert not list(killed.rglob(temporary.name)), "of this process"
    assert not record.writer()
    assert record.unsynced(["mlflow", "wandb"]) == []
