"""A process beside the stage logs its run, even if one of the two is killed."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer

import psutil
import pytest

from tests.faults.audit import audit
from tests.faults.kills import Command, started, wait_until
from tests.project import PATIENCE_SECONDS, PROJECT, Workspace
from tests.tracking.trackers import log, mlflow_runs, record_in, run_in, tracked_by
from toygpt.tracking import follower
from toygpt.tracking.wandb.files import read_runs

HAS_FOLLOWERS = True  # see conftest.py

pytestmark = pytest.mark.slow

MLFLOW = tracked_by("mlflow")

# Logs six points, and two more once it may.
AT_WORK = """
import time
from pathlib import Path
from tests.tracking.trackers import log, run_in, tracked_by

with run_in(Path.cwd(), tracked_by("mlflow", "wandb")) as run:
    log(run.record, 1, 7)
    while not Path("may-continue").exists():
        time.sleep(0.02)
    log(run.record, 7, 9)
    time.sleep(600)
"""


def kill(command: Command, _: psutil.Process) -> None:
    command.send(signal.SIGKILL)


def kill_both(command: Command, follower: psutil.Process) -> None:
    """Do as a power failure does."""
    follower.kill()
    command.send(signal.SIGKILL)


def press_ctrl_c(command: Command, _: psutil.Process) -> None:
    """Press it twice: the second time, the stage does not even wait any more."""
    command.press_ctrl_c()
    root = Path(psutil.Process(command.process.pid).cwd())
    wait_until(lambda: record_in(root).info.status == "KILLED")
    command.press_ctrl_c()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (kill, "its process is gone"),
        (kill_both, None),
        (press_ctrl_c, "KeyboardInterrupt"),
    ],
)
def test_a_training_that_is_ended_is_ended_at_the_trackers_and_resumed_there(
    tmp_path: Path,
    empty_database: Path,
    end: Callable[[Command, psutil.Process], None],
    reason: str | None,
) -> None:
    """It leaves temporary files in the project alone.

    The project lies deep: a socket's path may have 107 bytes at most.
    """
    root = tmp_path / ("deep" * 15) / ("folder" * 10)
    for path in (root, tmp_path / "tmp"):
        path.mkdir(parents=True)
    shutil.copy(empty_database, root)
    workspace = Workspace(root)
    workspace.environment |= {
        "TMPDIR": str(tmp_path / "tmp"),
        "HOME": str(tmp_path),
        "PYTHONPATH": str(PROJECT),
    }
    temporary = root / ".toygpt" / "wandb" / "tmp"
    with started(workspace, sys.executable, "-c", AT_WORK) as command:

        def wait_for(condition: Callable[[], bool]) -> None:
            wait_until(lambda: condition() or not command.is_running)
            assert command.is_running, command.output

        wait_for(lambda: speed_in_mlflow(root) == 60.0)
        (root / "may-continue").touch()
        wait_for(lambda: len(record_in(root).points) == 8)
        wait_for(lambda: "wandb" in record_in(root).info.synced)
        (process,) = followers(command.process.pid)
        children = [process, *process.children(recursive=True)]
        sockets = list(temporary.glob(f"*/wandb-{process.pid}-*/socket"))
        end(command, process)
        _, alive = psutil.wait_procs(children, timeout=PATIENCE_SECONDS)
        output = command.output
    before = record_in(root)
    (in_mlflow,) = mlflow_runs(root)

    assert not alive, "they end by themselves when there is nothing to follow"
    assert len(sockets) == 1
    outside = Path("/tmp").glob(f"wandb-{process.pid}-*")
    assert [*(tmp_path / "tmp").iterdir(), *outside] == []
    assert bool(list(temporary.glob("*/*"))) == (end is kill_both)
    assert len(before.points) == 8, "no point was lost with the process"
    assert "warning" not in output
    assert before.info.reason == reason
    assert before.info.status == ("KILLED" if reason else "RUNNING")
    assert in_mlflow.info.status == before.info.status
    if reason:
        assert audit(root) == []
        assert before.unsynced(["mlflow", "wandb"]) == []

    for step in (9, 10):  # logged, and then the power failed
        before.append({"loss": 1 / step, "speed": 10.0 * step}, step=step)
    with (before.folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 11, "tim')
    with run_in(root, tracked_by("mlflow", "wandb")) as run:
        for step in range(7, 15):
            run.log_metrics({"loss": 2 / step, "speed": 20.0}, step=step)
        run.log_metrics({"parameters": 123.0})

    record = record_in(root)
    assert record.points[:10] == before.points
    assert [point.step for point in record.points] == [*range(1, 15), None], "no gap"
    assert audit(root) == []
    (in_mlflow,) = mlflow_runs(root)
    assert in_mlflow.data.tags["toygpt.resumed.after"] == (
        reason or "its process is gone"
    )
    assert [run.exit_code for run in read_runs(root)] == [0], "one folder"
    assert list(temporary.iterdir()) == []
    assert not record.writer()
    assert record.unsynced(["mlflow", "wandb"]) == []


@pytest.fixture
def project(tmp_path: Path, empty_database: Path) -> Iterator[Path]:
    """Return a project with an empty database of MLflow."""
    shutil.copy(empty_database, tmp_path)
    yield tmp_path
    assert followers(os.getpid()) == []


def followers(stage: int) -> list[psutil.Process]:
    """Return the followers that run, and that the process of this id has started.

    It may have other children, also some that have ended: they have no command.
    """
    return [
        process
        for process in psutil.process_iter(["ppid", "cmdline"])
        if process.info["ppid"] == stage
        and "toygpt.tracking.sync" in (process.info["cmdline"] or [])
    ]


def follower_of_this() -> psutil.Process:
    (process,) = followers(os.getpid())
    return process


def test_what_a_killed_follower_has_not_logged_another_one_does(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with run_in(project, MLFLOW) as run:
        process = follower_of_this()
        process.kill()
        log(run.record, 1, 9)
        run.log_directory(run.record.folder, name="model")
        wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE)

    assert audit(project) == []
    assert record_in(project).info.synced["mlflow"].directories == ["model"]
    assert capfd.readouterr().err == ""


def test_a_run_whose_lock_was_deleted_goes_to_its_end(project: Path) -> None:
    """By hand, say: the stage is at work all the same."""
    with run_in(project, MLFLOW) as run:
        log(run.record, 1, 4)
        process = follower_of_this()
        wait_until(lambda: mlflow_runs(project))
        (run.record.folder / "lock").unlink()
        log(run.record, 4, 5)
        wait_until(lambda: speed_in_mlflow(project) == 40.0)  # it looks at the lock
        log(run.record, 5, 6)
        wait_until(lambda: speed_in_mlflow(project) == 50.0)
        (meanwhile,) = mlflow_runs(project)
        assert follower_of_this() == process

    assert meanwhile.info.status == "RUNNING"
    assert audit(project) == []


def speed_in_mlflow(project: Path) -> float | None:
    """Return the last speed that MLflow has of the run."""
    for run in mlflow_runs(project):
        return run.data.metrics.get("speed")
    return None


def test_a_follower_that_hangs_is_ended_with_a_warning(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And with it W&B's own process, which would never notice."""
    monkeypatch.setattr(follower, "PATIENCE_WITH_PROCESS_SECONDS", 0.2)

    with run_in(project, tracked_by("wandb")) as run:
        wait_until(lambda: "wandb" in record_in(project).info.synced)
        process = follower_of_this()
        hanging = [process, *process.children(recursive=True)]
        for each in hanging:
            each.suspend()
        # A stage that waits for ever would not fail the test, but hang it.
        resuming = Timer(PATIENCE_SECONDS, lambda: [it.resume() for it in hanging])
        resuming.daemon = True
        resuming.start()
        log(run.record, 1, 9)

    resuming.cancel()
    _, alive = psutil.wait_procs(hanging, timeout=PATIENCE_SECONDS)
    assert len(hanging) > 1 and not alive
    assert record_in(project).unsynced(["wandb"]) == ["wandb"]
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: the trackers cannot be synced: the process ")


def test_a_follower_that_cannot_be_started_is_a_warning(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", str(project / "nothing"))

    with run_in(project, MLFLOW) as run:
        log(run.record, 1, 9)

    assert record_in(project).info.status == "FINISHED"
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: the trackers cannot be synced: ")
    assert "No such file" in line
