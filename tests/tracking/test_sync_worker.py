"""A tracker may fail in any way: the work continues, and it gets everything later."""

import sys
import time
from collections.abc import Mapping
from threading import Event
from unittest.mock import Mock

import pytest

from tests.faults.kills import wait_until
from tests.project import PATIENCE_SECONDS
from tests.tracking.service import Fault, Service
from tests.tracking.trackers import Warned
from toygpt.tracking import sync_worker
from toygpt.tracking.record import Record, Synced
from toygpt.tracking.sync_worker import SyncWorker
from toygpt.tracking.tracker import RunNotWantedError, UserActionNeededError

NO_ENTRY = OSError("no entry")
# What a training of a few steps logs.
METRICS: dict[int | None, dict[str, float]] = {
    **{step: {"loss": 1 / step, "speed": 10.0 * step} for step in range(1, 6)},
    None: {"parameters": 123.0},
}
ALL_POINTS = [
    (step, name, value)
    for step, metrics in METRICS.items()
    for name, value in metrics.items()
]


def log(worker: SyncWorker, metrics: Mapping[str, float], step: int | None) -> None:
    worker.record.append(metrics, step=step)
    worker.sync_soon()


def finish(worker: SyncWorker) -> None:
    worker.record.update(status="FINISHED", ended=time.time())
    worker.begin_finish()
    worker.wait_for_finish()


def train(record: Record, service: Service, *, is_quiet: bool = False) -> None:
    worker = SyncWorker("mlflow", record, service.open, is_quiet=is_quiet)
    worker.wait_for_first_try()
    for step, metrics in METRICS.items():
        log(worker, metrics, step)
    worker.sync_directory(record.folder, name="model")
    finish(worker)


def check_that_it_is_synced(record: Record, service: Service) -> None:
    """Check that the service has everything, and each point once."""
    assert sorted(service.points, key=str) == sorted(ALL_POINTS, key=str)
    assert service.metadata[-1] == {"device": "abacus"}
    assert service.directories == {"model"}
    assert service.statuses == ["FINISHED"]
    assert record.info.synced["mlflow"] == Synced("1", 6, "FINISHED", ["model"])


def test_everything_is_synced_in_order_and_once(
    record: Record, service: Service
) -> None:
    train(record, service)

    check_that_it_is_synced(record, service)
    assert service.points == ALL_POINTS
    assert (len(service.metadata), len(service.opened)) == (1, 1)


def wrapped() -> None:
    """Fail as MLflow does: with explanations of SQLAlchemy around the cause."""
    try:
        raise OSError("attempt to write a readonly database")
    except OSError as error:
        raise RuntimeError("(raised as a result of Query-invoked autoflush)") from error


# A method that fails, how, and what the only warning says.
FAULTS: dict[str, tuple[str, list[Fault], str]] = {
    "cannot be opened at first": ("open", [NO_ENTRY] * 3, ": no entry. "),
    "fails at metadata": ("log_metadata", [NO_ENTRY], "entry."),
    "fails amid points": ("log_points", [lambda: None, EOFError()], "EOFError."),
    "fails often": ("log_points", [OSError(name) for name in "abcd"], ": a."),
    "is full": ("log_directory", [OSError(28, "No space left")], "No space"),
    "cannot be closed": ("close", [TimeoutError("no")], "no."),
    "ends the process": ("log_points", [SystemExit(3)], "3."),
    "is interrupted": ("log_points", [KeyboardInterrupt()], "Interrupt."),
    "explains": ("log_points", [wrapped], ": attempt to write a readonly database. "),
}


@pytest.mark.parametrize(("method", "faults", "words"), FAULTS.values(), ids=FAULTS)
def test_a_tracker_that_fails_is_synced_later_and_the_user_is_warned_once(
    record: Record,
    service: Service,
    warned: Warned,
    method: str,
    faults: list[Fault],
    words: str,
) -> None:
    service.fail(method, *faults)

    train(record, service)

    assert service.num_fired == len(faults)
    check_that_it_is_synced(record, service)
    (warning,) = warned()
    assert warning.startswith("warning: mlflow cannot be synced: ")
    assert words in warning


def test_points_that_a_tracker_lost_are_synced_again(
    record: Record, service: Service, warned: Warned
) -> None:
    service.fail("close", lambda: service.points.__delitem__(slice(2, 5)))
    service.fail("abandon", SystemExit(1))  # nor can it be released

    train(record, service)

    assert service.num_fired == 2
    assert sorted(service.points, key=str) == sorted(ALL_POINTS, key=str)
    assert "points did not arrive" in warned()[0]


@pytest.mark.parametrize("is_quiet", [True, False])
def test_a_quiet_worker_and_a_closed_terminal_get_no_warning(
    record: Record,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    warned: Warned,
    is_quiet: bool,
) -> None:
    if not is_quiet:
        monkeypatch.setattr(sys, "stderr", Mock(write=Mock(side_effect=ValueError)))
    service.fail("open", NO_ENTRY)

    train(record, service, is_quiet=is_quiet)

    assert service.num_fired == 1
    assert service.points == ALL_POINTS
    assert warned() == []


def test_a_record_that_cannot_be_written_is_not_a_failure_of_the_tracker(
    record: Record, service: Service, monkeypatch: pytest.MonkeyPatch, warned: Warned
) -> None:
    """The disk is full: the training will say so, and the tracker has everything."""
    no_space = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr(record, "note_synced", no_space)

    train(record, service)

    assert no_space.called
    assert service.points == ALL_POINTS
    assert (service.statuses, len(service.opened)) == (["FINISHED"], 1)
    assert warned() == []


@pytest.mark.parametrize(
    ("error", "num_warnings"),
    [(RunNotWantedError(), 0), (UserActionNeededError("its experiment is gone"), 1)],
)
def test_a_tracker_that_refuses_the_run_is_not_tried_again(
    record: Record,
    service: Service,
    warned: Warned,
    error: Exception,
    num_warnings: int,
) -> None:
    service.fail("open", error)

    train(record, service)

    assert (service.points, len(service.opened)) == ([], 1)
    assert len(warned()) == num_warnings
    # A run that the user deleted is settled; the other waits for the user.
    assert len(record.unsynced(["mlflow"])) == num_warnings


@pytest.mark.parametrize("method", ["open", "log_points", "close"])
def test_a_tracker_that_hangs_stops_neither_the_work_nor_its_end(
    record: Record,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    warned: Warned,
    method: str,
) -> None:
    """The start waits for one that hangs while it opens, but not for long."""
    monkeypatch.setattr(sync_worker, "FIRST_TRY_SECONDS", 0.1)
    monkeypatch.setattr(sync_worker, "PATIENCE_SECONDS", 0.2)
    is_over = Event()
    service.fail(method, lambda: is_over.wait(PATIENCE_SECONDS))

    started = time.monotonic()
    worker = SyncWorker("mlflow", record, service.open)
    worker.wait_for_first_try()
    for step in range(1, 50):
        log(worker, {"loss": 1 / step}, step)
    finish(worker)
    waited = time.monotonic() - started
    noted = record.info.synced.get("mlflow")
    is_over.set()
    worker._thread.join(PATIENCE_SECONDS)

    assert service.num_fired == 1
    assert 0.2 <= waited < PATIENCE_SECONDS
    (warning,) = warned()
    assert "it does not answer" in warning
    assert record.info.synced.get("mlflow") == noted, "another process may write it now"
    assert record.unsynced(["mlflow"]) == ["mlflow"]


def test_a_tracker_that_always_fails_does_not_hold_up_the_end(
    record: Record, service: Service, monkeypatch: pytest.MonkeyPatch, warned: Warned
) -> None:
    monkeypatch.setattr(sync_worker, "PATIENCE_WITH_FAILURE_SECONDS", 0.3)
    service.fail("open", *[NO_ENTRY] * 10_000)

    train(record, service)

    assert len(service.opened) > 3, "it was tried"
    assert service.faults["open"], "it was given up, or it would be open"
    assert record.unsynced(["mlflow"]) == ["mlflow"]
    assert len(warned()) == 1


def test_a_worker_that_pauses_tries_at_once_when_the_run_ends(
    record: Record, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = PATIENCE_SECONDS / 2
    monkeypatch.setattr(sync_worker, "FIRST_PAUSE_SECONDS", pause)
    service.fail("open", NO_ENTRY)

    started = time.monotonic()
    train(record, service)

    assert time.monotonic() - started < pause
    assert service.points == ALL_POINTS


def test_pauses_grow_up_to_the_longest_and_are_short_again_after_a_success(
    record: Record, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def note_pause(worker: SyncWorker, pause: float) -> bool:
        pauses.append(pause)
        worker.sync_soon()
        return True

    monkeypatch.setattr(SyncWorker, "_wait_to_retry", note_pause)
    service.fail("open", *[NO_ENTRY] * 3)
    record.append({"loss": 1.0}, step=1)
    worker = SyncWorker("mlflow", record, service.open)
    wait_until(lambda: service.points)
    service.fail("log_points", OSError("full"))
    log(worker, {"loss": 0.5}, 2)
    finish(worker)

    assert pauses == [0.05, 0.1, 0.1, 0.05]
