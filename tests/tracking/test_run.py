"""A training has one run, however it ends and however often it is resumed."""

import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from tests.faults.audit import audit
from tests.faults.kills import started, wait_until
from tests.project import PATIENCE_SECONDS, PROJECT, Workspace
from tests.tracking.service import Service
from tests.tracking.trackers import (
    RUN_ID,
    WEIGHTS,
    Warned,
    end_wandb,
    mlflow_runs,
    record_in,
    run_in,
    tracked_by,
)
from toygpt.tracking.points import read_points
from toygpt.tracking.record import Record, runs_folder
from toygpt.tracking.run import run_of_model
from toygpt.tracking.sync import bring_up_to_date
from toygpt.tracking.wandb_files import read_runs

NONE = tracked_by()
MLFLOW = tracked_by("mlflow")
BOTH = tracked_by("mlflow", "wandb")


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (None, "FINISHED", None),
        (ValueError("it diverged\nin many words"), "FAILED", "it diverged"),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
        (SystemExit(143), "KILLED", "143"),
    ],
)
def test_a_run_ends_as_its_block_does(
    tmp_path: Path,
    service: Service,
    error: BaseException | None,
    status: str,
    reason: str | None,
) -> None:
    ends = pytest.raises(type(error)) if error else nullcontext()
    with ends, run_in(tmp_path, MLFLOW) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        if error is not None:
            raise error

    info = record_in(tmp_path).info
    assert service.statuses == [info.status] == [status]
    assert service.points == [(1, "loss", 1.0)]
    assert info.ended is not None
    assert info.started <= info.ended <= time.time()
    assert info.reason == service.metadata[-1].get("reason") == reason


def test_a_failed_run_that_is_resumed_is_not_failed_any_more(
    tmp_path: Path, service: Service
) -> None:
    for error in (ValueError("no power"), KeyboardInterrupt()):
        with pytest.raises(type(error)), run_in(tmp_path, MLFLOW):
            raise error
    with run_in(tmp_path, MLFLOW, name="renamed"):
        meanwhile = record_in(tmp_path).info

    info = record_in(tmp_path).info
    assert (meanwhile.status, meanwhile.reason) == ("RUNNING", None)
    assert (meanwhile.ended, meanwhile.name) == (None, "renamed")
    assert info.metadata["resumed.after"] == "KeyboardInterrupt"
    assert (info.status, info.reason) == ("FINISHED", None)
    assert service.metadata[-1]["reason"] == "", "the trackers had one"


def test_parameters_that_changed_on_the_way_become_metadata(tmp_path: Path) -> None:
    """A run has one value of a parameter: the one that it began with."""
    began = {"precision": "32-true", "seed": 7, "paths": [1, 2]}
    found = []
    for precision in ("32-true", "bf16-mixed", "32-true"):
        with run_in(tmp_path, NONE, params=began | {"precision": precision}):
            pass
        info = record_in(tmp_path).info
        assert info.params == began
        assert not info.metadata.keys() & {"resumed.seed", "resumed.paths"}
        found.append(info.metadata.get("resumed.precision"))

    assert found == [None, "bf16-mixed", "32-true"]


def test_a_record_of_which_only_the_curves_are_left_is_continued(
    tmp_path: Path,
) -> None:
    for step in (1, 2):
        with run_in(tmp_path, NONE) as run:
            run.log_metrics({"loss": 1 / step}, step=step)
        (runs_folder(tmp_path) / RUN_ID / "run.json").write_text("{")

    points = read_points(runs_folder(tmp_path) / RUN_ID / "metrics.jsonl")
    assert [point.step for point in points] == [1, 2]


def test_a_full_disk_ends_the_training_with_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_space = OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="the first"), run_in(tmp_path, NONE) as run:
        monkeypatch.setattr(run.record, "update", Mock(side_effect=no_space))
        raise ValueError("the first error")

    assert record_in(tmp_path).info.status == "RUNNING", "the next start ends it"
    bring_up_to_date(NONE, tmp_path)
    assert record_in(tmp_path).info.status == "KILLED"


def test_a_model_that_was_trained_elsewhere_has_no_run(
    tmp_path: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_of_model(WEIGHTS, tracking=MLFLOW, root=tmp_path) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        run.log_directory(tmp_path, name="model")

    assert not list(tmp_path.iterdir())
    assert service.opened == []
    assert capsys.readouterr() == ("", "")


def test_a_later_stage_continues_the_run_of_its_model(
    tmp_path: Path, service: Service
) -> None:
    with run_in(tmp_path, MLFLOW) as run:
        run.log_metrics({"loss": 3.0}, step=5)
        run.remember_weights(WEIGHTS)
    ended = record_in(tmp_path).info.ended

    with run_of_model(WEIGHTS, tracking=MLFLOW, root=tmp_path) as run:
        run.log_metrics({"test_loss": 2.5})
        run.log_directory(tmp_path, name="samples")

    info = record_in(tmp_path).info
    assert service.opened == [RUN_ID, RUN_ID]
    assert service.points == [(5, "loss", 3.0), (None, "test_loss", 2.5)]
    assert service.metadata[-1]["weights.sha256"] == WEIGHTS
    assert service.statuses == ["FINISHED", "FINISHED"]
    assert (info.status, info.ended) == ("FINISHED", ended)
    assert info.synced["mlflow"].directories == ["samples"]


@pytest.fixture
def trained(tmp_path: Path) -> Record:
    """Return the record of a training that had no tracker."""
    with run_in(tmp_path, NONE) as run:
        run.remember_weights(WEIGHTS)
    return record_in(tmp_path)


def test_a_failing_later_stage_leaves_the_training_finished(
    tmp_path: Path, service: Service, trained: Record
) -> None:
    """A tracker that the training did not have gets nothing later."""
    with (
        pytest.raises(ValueError, match="no test split"),
        run_of_model(WEIGHTS, tracking=MLFLOW, root=tmp_path) as run,
    ):
        run.log_metrics({"test_loss": 1.0})
        raise ValueError("no test split")

    record = record_in(tmp_path)
    assert record.info.status == "FINISHED"
    assert record.points[-1].metrics == {"test_loss": 1.0}
    assert service.opened == []
    assert not trained.is_being_written()


@pytest.mark.parametrize(("file", "num"), [("run.json", 0), ("metrics.jsonl", 1)])
def test_a_damaged_record_does_not_fail_a_later_stage(
    tmp_path: Path, trained: Record, warned: Warned, file: str, num: int
) -> None:
    (trained.folder / file).write_text("{\n")

    with run_of_model(WEIGHTS, tracking=NONE, root=tmp_path) as run:
        run.log_metrics({"test_loss": 1.0})

    assert len(warned()) == num


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
    assert not record.is_being_written()
    assert record.unsynced(["mlflow", "wandb"]) == []
