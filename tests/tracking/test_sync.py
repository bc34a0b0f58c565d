"""What a tracker missed is synced later, of all runs that show there."""

import hashlib
import shutil
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.faults.audit import audit
from tests.files import write_files
from tests.project import PATIENCE_SECONDS
from tests.tracking.service import HANG, Service, StageWithin, sync_beside
from tests.tracking.trackers import (
    RUN_ID,
    Warned,
    end_wandb,
    log,
    new_record,
    record_in,
    run_in,
    tracked_by,
    wandb_core,
    wandb_killer,
)
from toygpt.tracking import backfill, connection, sync
from toygpt.tracking.backfill import Outcome, forget_lost, track
from toygpt.tracking.record import Record
from toygpt.tracking.sync import bring_up_to_date

NONE = tracked_by()
MLFLOW = tracked_by("mlflow")
WANDB = tracked_by("wandb")


def finish(root: Path, run_id: str = RUN_ID) -> None:
    """Train without trackers, and want MLflow afterwards."""
    with run_in(root, NONE, run_id=run_id, name=run_id) as run:
        run.log_metrics({"loss": 1.0}, step=1)
    record_in(root, run_id).update(trackers=["mlflow"])


def test_a_run_whose_process_is_gone_is_ended_and_synced_once(
    tmp_path: Path, service: Service
) -> None:
    finish(tmp_path)
    record_in(tmp_path).append({"loss": 0.5}, step=2)
    record_in(tmp_path).update(status="RUNNING")

    synced = bring_up_to_date(MLFLOW, tmp_path)
    again = bring_up_to_date(MLFLOW, tmp_path)

    info, (first, last) = record_in(tmp_path).info, record_in(tmp_path).points
    assert (synced, again) == ([RUN_ID], [])
    assert (info.status, info.reason) == ("KILLED", "its process is gone")
    assert info.ended == last.time > first.time
    assert (service.statuses, service.opened) == (["KILLED"], [RUN_ID])
    assert service.points == [(1, "loss", 1.0), (2, "loss", 0.5)]


def test_a_run_that_a_process_is_writing_is_left_alone(
    tmp_path: Path, service: Service, record: Record
) -> None:
    with record.locked():
        assert bring_up_to_date(MLFLOW, tmp_path) == []

    assert service.opened == []
    assert record_in(tmp_path).info.status == "RUNNING"


def test_a_tracker_that_is_muted_on_the_way_is_synced_later(
    tmp_path: Path, service: Service
) -> None:
    with pytest.raises(KeyboardInterrupt), run_in(tmp_path, MLFLOW) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        raise KeyboardInterrupt
    with run_in(tmp_path, NONE) as run:
        run.log_metrics({"loss": 0.5}, step=2)
    assert service.points == [(1, "loss", 1.0)]

    assert bring_up_to_date(MLFLOW, tmp_path) == ["nano-python"]
    assert service.points == [(1, "loss", 1.0), (2, "loss", 0.5)]
    assert service.statuses == ["KILLED", "FINISHED"]


def test_a_tracker_that_has_everything_is_not_opened_again(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Service()
    monkeypatch.setitem(sync.OPEN, "wandb", other.open)
    with run_in(tmp_path, tracked_by("wandb")):
        pass
    record_in(tmp_path).update(trackers=["mlflow", "wandb"])

    bring_up_to_date(tracked_by("mlflow", "wandb"), tmp_path)

    assert service.opened == other.opened == [RUN_ID]


def test_one_damaged_record_is_named_and_stops_no_other(
    tmp_path: Path, service: Service, warned: Warned
) -> None:
    for run_id in ("1", "2", "3"):
        finish(tmp_path, run_id)
    (record_in(tmp_path, "2").folder / "metrics.jsonl").write_text("no point\n" * 2)

    synced = bring_up_to_date(MLFLOW, tmp_path)

    assert synced == service.opened == ["3", "1"]
    (warning,) = warned()
    assert warning.startswith("warning: the training 2 is left as it is: ")
    assert "metrics.jsonl is damaged" in warning


class EndedStage(StageWithin):
    """A stage that has logged everything, even if another one writes the record."""

    def is_at_work(self) -> bool:
        return False


def test_files_of_a_stage_are_copied_even_if_another_one_logs_by_now(
    tmp_path: Path, service: Service, record: Record
) -> None:
    record.end("FINISHED", None, 2.0)
    with record.locked():
        stage = EndedStage(record, {"samples": tmp_path})
        sync.sync(Record(record.folder), MLFLOW, tmp_path, stage=stage)

    assert service.directories == {"samples"}
    assert service.statuses == ["FINISHED"]


def test_a_training_that_is_resumed_meanwhile_is_left_to_the_other_process(
    tmp_path: Path, service: Service, record: Record
) -> None:
    with record.locked():
        stage = EndedStage(record, {"model": tmp_path})
        sync.sync(Record(record.folder), MLFLOW, tmp_path, stage=stage)

    assert (service.directories, service.statuses) == (set(), [])
    assert record_in(tmp_path).info.status == "RUNNING"


def test_after_a_killed_stage_a_tracker_that_hangs_gets_less_time(
    tmp_path: Path, service: Service, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "PATIENCE_WITHOUT_STAGE_SECONDS", 0.2)
    monkeypatch.setattr(sync, "PATIENCE_WITH_FAILURE_SECONDS", 0.0)
    record.end("FINISHED", None, 2.0)
    service.fail("open", HANG)
    stage = EndedStage(record, {})
    monkeypatch.setattr(stage, "is_alive", lambda: False)

    started = time.monotonic()
    sync.sync(record, MLFLOW, tmp_path, stage=stage)

    assert service.num_fired == 1
    assert time.monotonic() - started < PATIENCE_SECONDS


def test_the_time_at_the_end_counts_from_the_end_of_the_stage(
    tmp_path: Path, service: Service, record: Record
) -> None:
    """A tracker that hung at that moment has used a part of it."""
    record.end("FINISHED", None, 2.0)
    service.fail("open", HANG)
    stage = EndedStage(record, {})
    stage.ended = time.monotonic() - PATIENCE_SECONDS

    started = time.monotonic()
    sync.sync(record, MLFLOW, tmp_path, stage=stage)

    assert service.num_fired == 1
    assert time.monotonic() - started < PATIENCE_SECONDS


def test_where_a_user_waits_a_tracker_has_as_long_as_it_takes(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch, warned: Warned
) -> None:
    finish(tmp_path)
    monkeypatch.setattr(sync, "PATIENCE_AT_END_SECONDS", 0.1)
    service.fail("close", lambda: time.sleep(0.5))

    assert bring_up_to_date(MLFLOW, tmp_path, in_foreground=True) == [RUN_ID]
    assert service.num_fired == 1
    assert warned() == []


def test_after_the_process_that_asked_for_it_no_other_run_is_begun(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id in ("1", "2", "3"):
        finish(tmp_path, run_id)
    stage = EndedStage(record_in(tmp_path, "1"), {})
    monkeypatch.setattr(stage, "is_alive", lambda: not service.statuses)

    assert bring_up_to_date(MLFLOW, tmp_path, stage=stage) == service.opened == ["3"]


@pytest.fixture
def without_model(tmp_path: Path, service: Service) -> Record:
    """Return the record of a training whose model MLflow did not get in time."""
    write_files(tmp_path, {"models/toygpt/model.safetensors": "weights"})
    service.fail("log_directory", *[OSError("too slow")] * 999)
    with run_in(tmp_path, MLFLOW) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        run.log_directory(tmp_path / "models/toygpt", name="model")
        run.remember_weights(hashlib.sha256(b"weights").hexdigest())
    assert service.num_fired >= 1
    service.faults.clear()
    service.opened.clear()
    return record_in(tmp_path)


@pytest.mark.usefixtures("gives_up_soon")
def test_a_model_that_did_not_arrive_follows_from_the_workspace(
    tmp_path: Path, service: Service, without_model: Record
) -> None:
    assert without_model.info.synced["mlflow"].missing == ["model"]

    assert bring_up_to_date(MLFLOW, tmp_path) == ["nano-python"]

    assert service.directories == {"model"}
    assert record_in(tmp_path).info.synced["mlflow"].missing == []
    assert record_in(tmp_path).unsynced(["mlflow"]) == []


@pytest.mark.usefixtures("gives_up_soon")
def test_a_model_that_is_gone_is_named_once_and_costs_nothing_more(
    tmp_path: Path, service: Service, without_model: Record, warned: Warned
) -> None:
    shutil.rmtree(tmp_path / "models")
    warned()

    for _ in range(2):
        bring_up_to_date(MLFLOW, tmp_path)
    unsynced = record_in(tmp_path).unsynced(["mlflow"])
    first, warnings, again = track(tmp_path, MLFLOW), warned(), track(tmp_path, MLFLOW)

    assert service.opened == [RUN_ID], "for the curves, and not for the model"
    assert unsynced == ["mlflow"]
    assert first == again == Outcome([], {})
    (warning,) = warnings
    assert "mlflow did not get the model of the run nano-python in time" in warning
    assert warned() == []


@pytest.mark.usefixtures("gives_up_soon")
def test_only_the_tracker_that_lacks_a_model_is_opened_for_it(
    tmp_path: Path,
    service: Service,
    without_model: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Service()
    monkeypatch.setitem(sync.OPEN, "wandb", other.open)

    assert track(tmp_path, WANDB).synced == ["nano-python"]
    assert track(tmp_path, tracked_by("mlflow", "wandb")).synced == ["nano-python"]

    assert other.directories == service.directories == {"model"}
    assert other.opened == service.opened == [RUN_ID]


@pytest.mark.slow
def test_a_suspended_wandb_holds_nothing_up_and_gets_the_rest_later(
    root: Path, warned: Warned, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = new_record(root, trackers=["wandb"])
    killers = []

    def suspend() -> None:
        killers.append(wandb_killer())
        wandb_core().suspend()
        log(record, 4, 40)

    with monkeypatch.context() as patched:
        patched.setattr(sync, "PATIENCE_AT_END_SECONDS", 1.0)
        patched.setattr(sync, "PATIENCE_WITH_FAILURE_SECONDS", 0.0)
        patched.setattr(connection, "SECONDS_TO_RELEASE", 0.5)
        sync_beside(record, WANDB, root, lambda: log(record, 1, 4), suspend)
    (kill,) = killers
    kill()
    end_wandb()  # as if another process had started

    (warning,) = warned()
    assert "does not answer" in warning
    assert record.unsynced(["wandb"]) == ["wandb"]
    assert bring_up_to_date(WANDB, root) == ["nano-python"]
    assert audit(root) == []


@pytest.mark.usefixtures("gives_up_soon")
def test_of_a_tracker_that_fails_the_user_is_warned_once_however_many_runs_wait(
    tmp_path: Path, service: Service, warned: Warned
) -> None:
    for run_id in ("1", "2", "3"):
        finish(tmp_path, run_id)
    service.fail("open", *[OSError("no entry")] * 99)

    with run_in(tmp_path, MLFLOW, run_id="4"):
        pass
    assert len(warned()) == 1
    assert bring_up_to_date(MLFLOW, tmp_path) == []
    assert len(warned()) == 1
    assert set(service.opened) == {"3", "4"}, "it was tried with one of the three"


@pytest.mark.parametrize(
    ("known", "is_lost"),
    [
        (None, True),
        ({}, True),
        ({(1, "loss"): 1.0}, False),
        ({(1, "loss"): 1.0, (2, "loss"): 1.0}, False),
    ],
)
def test_a_run_that_a_tracker_lost_is_synced_again(
    tmp_path: Path,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    known: dict[tuple[int, str], float] | None,
    is_lost: bool,
) -> None:
    with run_in(tmp_path, MLFLOW) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        run.log_metrics({"parameters": 123.0})  # results are not looked up
    monkeypatch.setitem(backfill.LOOK_UP, "mlflow", lambda *_: known)

    assert bring_up_to_date(MLFLOW, tmp_path) == []
    forget_lost(MLFLOW, tmp_path)
    synced = bring_up_to_date(MLFLOW, tmp_path)
    assert synced == (["nano-python"] if is_lost else [])


def test_what_a_tracker_has_that_cannot_be_asked_stays_noted(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch, warned: Warned
) -> None:
    for run_id in ("1", "2"):
        finish(tmp_path, run_id)
    bring_up_to_date(MLFLOW, tmp_path)
    noted = record_in(tmp_path, "1").info.synced
    refuse = Mock(side_effect=OSError("Connection refused"))
    monkeypatch.setitem(backfill.LOOK_UP, "mlflow", refuse)

    forget_lost(MLFLOW, tmp_path)

    assert refuse.call_count == 1, "it is not asked for each run"
    assert record_in(tmp_path, "1").info.synced == noted
    (warning,) = warned()
    assert warning.endswith("what mlflow has is not looked up: Connection refused")
