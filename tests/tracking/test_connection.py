"""A tracker may fail in any way: it gets everything that it lacks, later and once."""

import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.tracking.service import HANG, Fault, Service, sync_beside
from tests.tracking.trackers import Warned, tracked_by
from toygpt.tracking import connection, sync
from toygpt.tracking.connection import Connection
from toygpt.tracking.record import Record
from toygpt.tracking.run_info import Synced
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


def train(record: Record, *, is_quiet: bool = False) -> None:
    """Log all points, each synced before the next."""

    def log(step: int | None) -> Callable[[], None]:
        return lambda: record.append(METRICS[step], step=step)

    root = record.folder.parents[2]
    sync_beside(
        record,
        tracked_by("mlflow"),
        root,
        *map(log, METRICS),
        directories={"model": record.folder},
        is_quiet=is_quiet,
    )


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
    train(record)

    check_that_it_is_synced(record, service)
    assert service.points == ALL_POINTS
    assert (len(service.metadata), len(service.opened)) == (1, 1)


def wrapped() -> None:
    """Fail as MLflow does: with explanations of SQLAlchemy around the cause."""
    try:
        raise OSError("attempt to write a readonly database")
    except OSError as error:
        raise RuntimeError("(raised as a result of Query-invoked autoflush)") from error


def quoted() -> None:
    """Fail as MLflow's client does."""
    try:
        raise ConnectionRefusedError(111, "Connection refused")
    except OSError as error:
        raise RuntimeError(f"API request failed with exception {error}")  # noqa: B904


def while_handling_another() -> None:
    nothing: dict[str, str] = {}
    try:
        nothing["a key"]
    except KeyError:
        raise OSError("no entry")  # noqa: B904


# A method that fails, how, and what the only warning says.
FAULTS: dict[str, tuple[str, list[Fault], str]] = {
    "cannot be opened at first": ("open", [NO_ENTRY] * 3, ": no entry. "),
    "fails at metadata": ("log_metadata", [NO_ENTRY], "entry."),
    "fails amid points": ("log_points", [lambda: None, EOFError()], "EOFError."),
    "fails often": ("log_points", [OSError(name) for name in "abcd"], ": a."),
    "is full": ("log_directory", [OSError(28, "No space left")], "No space"),
    "cannot be closed": ("close", [TimeoutError("no")], "no."),
    "ends the process": ("log_points", [SystemExit(3)], "3."),
    "explains": ("log_points", [wrapped], ": attempt to write a readonly database. "),
    "quotes": ("log_points", [quoted], ": [Errno 111] Connection refused. "),
    "handles": ("log_points", [while_handling_another], ": no entry. "),
    "hangs": ("log_points", [HANG], ": it does not answer. "),
    "hangs while it opens": ("open", [HANG], "not answer. "),
}


@pytest.mark.parametrize(("method", "faults", "words"), FAULTS.values(), ids=FAULTS)
def test_a_tracker_that_fails_is_synced_later_and_the_user_is_warned_once(
    record: Record,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    warned: Warned,
    method: str,
    faults: list[Fault],
    words: str,
) -> None:
    if "answer" in words:
        monkeypatch.setattr(sync, "PATIENCE_WHILE_TRAINING_SECONDS", 0.2)
    service.fail(method, *faults)

    train(record)

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

    train(record)

    assert service.num_fired == 2
    assert sorted(service.points, key=str) == sorted(ALL_POINTS, key=str)
    assert "points did not arrive" in warned()[0]


@pytest.mark.parametrize("is_quiet", [True, False])
def test_quiet_syncing_and_a_closed_terminal_get_no_warning(
    record: Record,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    warned: Warned,
    is_quiet: bool,
) -> None:
    if not is_quiet:
        monkeypatch.setattr(sys, "stderr", Mock(write=Mock(side_effect=ValueError)))
    service.fail("open", NO_ENTRY)

    train(record, is_quiet=is_quiet)

    assert service.num_fired == 1
    assert service.points == ALL_POINTS
    assert warned() == []


def test_notes_that_cannot_be_written_are_not_a_failure_of_the_tracker(
    record: Record, service: Service, monkeypatch: pytest.MonkeyPatch, warned: Warned
) -> None:
    """The disk is full: the training will say so, and the tracker has everything."""
    no_space = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr(Record, "note_synced", no_space)

    train(record)

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

    train(record)

    assert (service.points, len(service.opened)) == ([], 1)
    assert len(warned()) == num_warnings
    # A run that the user deleted is settled; the other waits for the user.
    assert len(record.unsynced(["mlflow"])) == num_warnings


@pytest.mark.parametrize("method", ["open", "log_points", "close"])
def test_a_tracker_that_always_hangs_does_not_hold_up_the_end(
    record: Record,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    warned: Warned,
    method: str,
) -> None:
    monkeypatch.setattr(sync, "PATIENCE_AT_END_SECONDS", 0.2)
    monkeypatch.setattr(sync, "PATIENCE_WHILE_TRAINING_SECONDS", 0.2)
    monkeypatch.setattr(sync, "PATIENCE_WITH_FAILURE_SECONDS", 0.1)
    service.fail(method, *[HANG] * 99)

    train(record)

    assert service.num_fired >= 1
    (warning,) = warned()
    assert "it does not answer" in warning
    assert record.unsynced(["mlflow"]) == ["mlflow"]


def test_a_tracker_that_always_fails_does_not_hold_up_the_end(
    record: Record, service: Service, monkeypatch: pytest.MonkeyPatch, warned: Warned
) -> None:
    monkeypatch.setattr(sync, "PATIENCE_WITH_FAILURE_SECONDS", 0.3)
    service.fail("open", *[NO_ENTRY] * 10_000)

    train(record)

    assert len(service.opened) > 3, "it was tried"
    assert service.faults["open"], "it was given up, or it would be open"
    assert record.unsynced(["mlflow"]) == ["mlflow"]
    assert len(warned()) == 1


def test_pauses_grow_and_are_short_again_after_a_success_and_at_the_end(
    record: Record, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(connection, "FIRST_PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(connection, "monotonic", lambda: now)
    mlflow = Connection("mlflow", record, service.open)

    def tries_until(end: int) -> list[float]:
        nonlocal now
        found = []
        while now < end:
            before = len(service.opened)
            mlflow.sync({}, limit_seconds=60)
            found += [now] * (len(service.opened) - before)
            now += 1
        return found

    service.fail("open", *[NO_ENTRY] * 7)
    assert tries_until(100) == [0, 1, 3, 7, 15, 31, 61, 91]
    service.fail("log_metadata", NO_ENTRY)
    record.add_metadata({"key": "value"})
    assert tries_until(150) == [101], "after a second"
    service.fail("log_metadata", *[NO_ENTRY] * 3)
    record.add_metadata({"key": "other"})
    assert tries_until(156) == [151, 154], "and, failing a second later, after two"
    mlflow.try_at_once()
    assert tries_until(157) == [156]


EVERYTHING = [(1, "loss", 1.0), (2, "loss", 0.5), (None, "parameters", 123.0)]


@pytest.fixture
def finished(record: Record) -> Record:
    """Return the record of a training of two steps."""
    for step, name, value in EVERYTHING:
        record.append({name: value}, step=step)
    record.update(status="FINISHED", ended=2.0)
    return record


def sync_once(record: Record, service: Service, *directories: str) -> list[Synced]:
    """Sync everything at once, and return what was noted on the way."""
    noted: list[Synced] = []

    class Noting(Record):
        def note_synced(self, synced: object) -> None:
            super().note_synced(synced)  # type: ignore[arg-type]
            noted.append(self.info.synced["mlflow"])

    mlflow = Connection("mlflow", Noting(record.folder), service.open)
    copies: dict[str, Path] = dict.fromkeys(directories, record.folder)
    mlflow.expect(copies, again=True)
    mlflow.sync(copies, is_last=True, limit_seconds=60)
    record.refresh()
    return noted


@pytest.mark.parametrize("known", [EVERYTHING, EVERYTHING[:1], EVERYTHING[1:], []])
def test_only_missing_points_are_sent(
    finished: Record, service: Service, known: list[tuple[int | None, str, float]]
) -> None:
    service.points = list(known)

    noted = sync_once(finished, service)

    assert sorted(service.points, key=str) == sorted(EVERYTHING, key=str)
    assert noted == [Synced("1"), Synced("1", 3, "FINISHED")]


def test_of_a_result_that_changed_the_last_value_stays(
    finished: Record, service: Service
) -> None:
    finished.append({"test_loss": 2.5, "xz": 1.0}, step=None)
    finished.append({"test_loss": 2.25}, step=None)
    has_all = [*EVERYTHING, (None, "test_loss", 2.25), (None, "xz", 1.0)]
    service.points = list(has_all)

    sync_once(finished, service)

    assert service.points == has_all


@pytest.mark.parametrize(
    ("run_id", "whole", "missing"),
    [("1", ["samples"], []), ("0", [], ["deleted", "samples"])],
)
def test_only_a_whole_copy_of_this_run_is_noted_as_a_copy(
    finished: Record,
    service: Service,
    run_id: str,
    whole: list[str],
    missing: list[str],
) -> None:
    """A killed process leaves half a copy, which the service lists like any other."""
    finished.note_synced({"mlflow": Synced(run_id, directories=["samples", "deleted"])})
    service.directories = {"model", "samples"}

    *_, without_model = sync_once(finished, service)
    *_, with_model = sync_once(finished, service, "model")

    assert without_model == Synced("1", 3, "FINISHED", whole, missing=missing)
    assert with_model.directories == ["model", *whole]


@pytest.mark.parametrize("name", ["model", "samples"])
def test_while_a_copy_is_made_only_the_others_are_noted(
    tmp_path: Path, finished: Record, service: Service, name: str
) -> None:
    """A killed process leaves nothing but these notes."""
    finished.note_synced({"mlflow": Synced("1", 1, "FINISHED", ["model"])})
    meanwhile: list[Synced] = []

    def note() -> None:
        meanwhile.append(Record(finished.folder).info.synced["mlflow"])

    service.fail("log_directory", note)
    service.directories = {"model"}

    *_, noted = sync_once(finished, service, name)

    whole = sorted({"model"} - {name})
    assert meanwhile == [Synced("1", directories=whole, missing=[name])]
    assert noted.directories == sorted({"model", name})
