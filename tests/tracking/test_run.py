"""A training has one run, however it ends and however often it is resumed."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest

from tests.project import PATIENCE_SECONDS, PROJECT
from tests.tracking.service import Service, raising
from tests.tracking.trackers import (
    RUN_ID,
    WEIGHTS,
    Warned,
    end_wandb,
    mlflow_rows,
    mlflow_runs,
    record_in,
    rows_of,
    run_in,
    tracked_by,
    wandb_rows,
)
from toygpt.tracking import sync
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
    no_space = raising(OSError(28, "No space left on device"))

    with pytest.raises(ValueError, match="the first"), run_in(tmp_path, NONE) as run:
        monkeypatch.setattr(run.record, "update", lambda **_: no_space())
        raise ValueError("the first error")

    assert record_in(tmp_path).info.status == "RUNNING", "the next start ends it"
    bring_up_to_date(NONE, tmp_path)
    assert record_in(tmp_path).info.status == "KILLED"


def test_one_failing_tracker_does_not_stop_the_other(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch, warned: Warned
) -> None:
    other = Service()
    monkeypatch.setitem(sync.OPEN, "wandb", other.open)
    service.fail("open", raising(OSError("no entry")))

    with run_in(tmp_path, BOTH) as run:
        run.log_metrics({"loss": 3.0}, step=1)

    (warning,) = warned()
    assert warning.startswith("warning: mlflow cannot be synced: no entry. ")
    assert service.points == other.points == [(1, "loss", 3.0)]


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
    tmp_path: Path, trained: Record
) -> None:
    with (
        pytest.raises(ValueError, match="no test split"),
        run_of_model(WEIGHTS, tracking=NONE, root=tmp_path),
    ):
        raise ValueError("no test split")

    assert record_in(tmp_path).info.status == "FINISHED"
    assert not trained.is_being_written()
    assert [path.name for path in tmp_path.iterdir()] == [".toygpt"]


def test_a_tracker_that_the_training_did_not_have_gets_nothing_later(
    tmp_path: Path, service: Service, trained: Record
) -> None:
    with run_of_model(WEIGHTS, tracking=MLFLOW, root=tmp_path) as run:
        run.log_metrics({"test_loss": 1.0})

    assert service.opened == []
    assert record_in(tmp_path).points[-1].metrics == {"test_loss": 1.0}


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
import os, sys, time
from pathlib import Path
from tests.faults.kills import wait_until
from tests.tracking.trackers import log, run_in, tracked_by, mlflow_rows

root = Path(sys.argv[1])
os.chdir(root)  # as a stage
with run_in(root, tracked_by("mlflow", "wandb")) as run:
    log(run, range(1, 7))
    wait_until(lambda: len(mlflow_rows(root)) == 12)
    log(run, range(7, 9))
    print("halfway", flush=True)
    time.sleep(600)
"""


class Killed:
    """A training with both trackers that was killed, and its state before that."""

    def __init__(self, folder: Path, database: Path) -> None:
        # Deep: a socket's path may have 107 bytes at most.
        self.root = folder / ("deep" * 15) / ("folder" * 10)
        self.root.mkdir(parents=True)
        shutil.copy(database, self.root)
        (folder / "tmp").mkdir()
        settings = {"TMPDIR": str(folder / "tmp"), "HOME": str(folder)}
        process = subprocess.Popen(
            [sys.executable, "-c", AT_WORK, self.root],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ, PYTHONPATH=str(PROJECT), **settings),
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "halfway\n"
            temporary = self.root / ".toygpt" / "wandb" / "tmp"
            self.sockets = list(temporary.glob(f"*/wandb-{process.pid}-*/socket"))
            (self.in_mlflow,) = mlflow_runs(self.root)
        finally:
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.communicate()
        _, alive = psutil.wait_procs(children, timeout=PATIENCE_SECONDS)
        assert not alive, "W&B's process ends by itself when there is nothing to follow"
        self.leftovers = list(temporary.glob("*/*"))
        self.outside = [
            *(folder / "tmp").iterdir(),
            *Path("/tmp").glob(f"wandb-{process.pid}-*"),
        ]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Killed:
    """Return a training with both trackers that was killed."""
    return Killed(tmp_path_factory.mktemp("killed"), empty_database)


@pytest.mark.slow
def test_a_killed_training_leaves_temporary_files_in_the_project_alone(
    killed: Killed,
) -> None:
    assert len(killed.sockets) == 1
    assert killed.leftovers, "it was killed"
    assert killed.outside == []


@pytest.mark.slow
def test_a_resumed_training_continues_its_runs(killed: Killed, tmp_path: Path) -> None:
    """Its end is in no tracker; some of its steps are repeated."""
    root = Path(shutil.copytree(killed.root, tmp_path / "root"))
    before, record = record_in(killed.root), record_in(root)
    for step in (9, 10):  # logged, and then the power failed
        record.append({"loss": 1 / step, "speed": 10.0 * step}, step=step)
    with (record.folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 11, "tim')

    with run_in(root, BOTH) as run:
        (meanwhile,) = mlflow_runs(root)
        for step in range(7, 15):
            run.log_metrics({"loss": 2 / step, "speed": 20.0}, step=step)
        run.log_metrics({"parameters": 123.0})
        run.log_directory(PROJECT / "stages", name="model")
    end_wandb()

    record = record_in(root)
    expected = rows_of(record)
    assert len(before.points) == 8, "no point was lost with the process"
    assert [row[0] for row in expected[::2]] == list(range(1, 15)), "no gap"
    assert expected[:16] == rows_of(before), "the points that were logged stay"
    assert [row for row in mlflow_rows(root) if row[0]] == expected, "none twice"
    assert wandb_rows(root) == expected
    (in_mlflow,) = mlflow_runs(root)
    assert in_mlflow.info.run_id == killed.in_mlflow.info.run_id
    assert killed.in_mlflow.info.status == meanwhile.info.status == "RUNNING"
    assert (in_mlflow.info.status, record.info.status) == ("FINISHED", "FINISHED")
    assert in_mlflow.data.metrics["parameters"] == 123.0
    assert in_mlflow.data.tags["resumed.after"] == "its process is gone"
    first, last = read_runs(root)
    assert (first.exit_code, last.exit_code, last.run_id) == (None, 0, RUN_ID)
    assert last.summary["parameters"] == 123.0
    assert not record.is_being_written()
    assert record.unsynced(["mlflow", "wandb"]) == []


@pytest.mark.slow
def test_a_killed_training_is_ended_in_both_trackers(
    killed: Killed, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(killed.root, tmp_path / "root"))

    synced = bring_up_to_date(BOTH, root)
    again = bring_up_to_date(BOTH, root)
    end_wandb()

    assert (synced, again) == (["nano-python"], [])
    record = record_in(root)
    (in_mlflow,) = mlflow_runs(root)
    assert (record.info.status, in_mlflow.info.status) == ("KILLED", "KILLED")
    assert in_mlflow.data.tags["reason"] == "its process is gone"
    assert in_mlflow.info.end_time == int(1000 * record.points[-1].time)
    assert [run.exit_code for run in read_runs(root)] == [None, 130]
    assert mlflow_rows(root) == wandb_rows(root) == rows_of(record)
