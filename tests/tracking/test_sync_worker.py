"""Whatever becomes of a tracker, the work goes on and the tracker learns all of it."""

import io
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.project import PATIENCE_SECONDS
from tests.tracking.trackers import RUN_ID, record_in, warnings_on
from toygpt.tracking import sync_worker
from toygpt.tracking.record import Known, Point, Record, Status, Synced, known_of
from toygpt.tracking.run import Run
from toygpt.tracking.sync_worker import SyncWorker
from toygpt.tracking.tracker import RunNotWantedError

Fault = Callable[[], None]


class Service:
    """A tracker's far end, which keeps what arrives and fails when it is told to."""

    def __init__(self) -> None:
        self.points: list[tuple[int | None, str, float]] = []
        self.metadata: list[dict[str, str]] = []
        self.directories: list[str] = []
        self.status: Status | None = None
        self.num_opened = 0
        self.faults: dict[str, list[Fault]] = {}
        self.num_fired = 0

    def fail(self, where: str, *faults: Fault) -> None:
        """Let the next calls of a method go wrong, each in its way."""
        self.faults[where] = list(faults)

    def meet_fault(self, where: str) -> None:
        """Go wrong if that is what the test wants."""
        if self.faults.get(where):
            self.num_fired += 1
            self.faults[where].pop(0)()

    def known(self) -> Known:
        """Return what has arrived."""
        return {(step, name): value for step, name, value in self.points}

    def open(self) -> "Connection":
        """Open the run."""
        self.num_opened += 1
        self.meet_fault("open")
        return Connection(self)


class Connection:
    """The run of a service, open for more."""

    run_id = "1"

    def __init__(self, service: Service) -> None:
        self.service = service
        self.known = service.known()
        self.directories: set[str] = set()

    def log_metadata(self, metadata: Mapping[str, str]) -> None:
        self.service.meet_fault("log_metadata")
        self.service.metadata.append(dict(metadata))

    def log_points(self, points: Sequence[Point]) -> None:
        for point in points:
            for name, value in point.metrics.items():
                self.service.meet_fault("log_points")
                self.service.points.append((point.step, name, value))
        self.known |= known_of(points)

    def log_directory(self, directory: Path, *, name: str) -> None:
        self.service.meet_fault("log_directory")
        self.service.directories.append(name)

    def close(self, status: Status, *, ended: float) -> None:
        self.service.meet_fault("close")
        self.service.status = status
        self.known = self.service.known()
        self.directories = set(self.service.directories)

    def abandon(self) -> None:
        self.service.meet_fault("abandon")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_worker, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(sync_worker, "LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(sync_worker, "PATIENCE_WITH_FAILURE_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
def service() -> Service:
    """Return a service that works."""
    return Service()


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Return the record of a training that has just begun."""
    return Record.create(
        tmp_path,
        id=RUN_ID,
        name="nano-python",
        project="toy",
        params={},
        tags={},
        trackers=["fake"],
        metadata={"device": "abacus"},
    )


class Hang:
    """A fault that lasts until the test ends it."""

    def __init__(self) -> None:
        self.began, self.is_over, self.has_ended = (threading.Event() for _ in range(3))

    def __call__(self) -> None:
        self.began.set()
        self.is_over.wait(PATIENCE_SECONDS)
        self.has_ended.set()

    @property
    def lasts(self) -> bool:
        """Whether it has begun, and not ended."""
        return self.began.is_set() and not self.has_ended.is_set()


def raising(error: BaseException) -> Fault:
    """Return a fault that raises an error."""

    def fault() -> None:
        raise error

    return fault


def log(worker: SyncWorker, metrics: Mapping[str, float], step: int | None) -> None:
    """Note a point, as a run does."""
    worker.record.append(metrics, step=step)
    worker.tell_news()


def finish(worker: SyncWorker, status: Status = "FINISHED") -> None:
    """End the run, as its block does."""
    worker.record.update(status=status, ended=time.time())
    worker.ask_to_finish()
    worker.wait_for_finish()


def train(record: Record, service: Service, *, num_steps: int = 5) -> SyncWorker:
    """Run a training of a few steps to its end."""
    worker = SyncWorker("fake", record, service.open)
    worker.wait_for_first_try()
    for step in range(1, num_steps + 1):
        log(worker, {"loss": 1 / step, "speed": 10.0 * step}, step)
        time.sleep(0.005)
    log(worker, {"parameters": 123.0}, None)
    worker.take_directory(record.folder, name="model")
    finish(worker)
    return worker


def all_points(num_steps: int = 5) -> list[tuple[int | None, str, float]]:
    """Return what the service should have of that training, each point once."""
    curves: list[tuple[int | None, str, float]] = []
    for step in range(1, num_steps + 1):
        curves += [(step, "loss", 1 / step), (step, "speed", 10.0 * step)]
    return [*curves, (None, "parameters", 123.0)]


def test_all_is_told_in_order_and_once(record: Record, service: Service) -> None:
    train(record, service)

    assert service.points == all_points()
    assert service.metadata == [{"device": "abacus"}]
    assert service.directories == ["model"]
    assert (service.status, service.num_opened) == ("FINISHED", 1)
    assert record.info.synced["fake"] == Synced("1", 6, "FINISHED", ["model"])
    assert record.info.unsynced(["fake"], len(record.points)) == []


FAULTS: dict[str, tuple[str, list[Fault]]] = {
    "closed at first": ("open", [raising(OSError("no entry"))] * 3),
    "deaf to metadata": ("log_metadata", [raising(OSError("no"))]),
    "cut off in the middle of a point": (
        "log_points",
        [lambda: None, raising(EOFError())],
    ),
    "cut off again and again": ("log_points", [raising(OSError(n)) for n in "abcd"]),
    "full": ("log_directory", [raising(OSError(28, "No space left on device"))]),
    "failing to end": ("close", [raising(TimeoutError("no"))]),
    "leaving the process": ("log_points", [raising(SystemExit(3))]),
    "interrupted": ("log_points", [raising(KeyboardInterrupt())]),
}


def test_trackers_open_one_after_the_other(record: Record) -> None:
    """At once they would wait for each other's imports."""
    events: list[str] = []

    def opener(name: str) -> Callable[[], Connection]:
        def open_slowly() -> Connection:
            events.append(f"{name} opens")
            time.sleep(0.05)
            events.append(f"{name} is open")
            return Service().open()

        return open_slowly

    run = Run(record, {name: opener(name) for name in ("one", "other")})

    assert events == ["one opens", "one is open", "other opens", "other is open"]
    record.update(status="FINISHED", ended=time.time())
    run.close()


@pytest.mark.parametrize(("where", "faults"), FAULTS.values(), ids=FAULTS)
def test_what_was_missed_is_told_later_and_the_user_hears_of_it_once(
    record: Record,
    service: Service,
    capsys: pytest.CaptureFixture[str],
    where: str,
    faults: list[Fault],
) -> None:
    service.fail(where, *faults)

    train(record, service)

    assert service.num_fired == len(faults), "the faults fired"
    assert sorted(service.points, key=str) == sorted(all_points(), key=str)
    assert service.metadata[-1] == {"device": "abacus"}
    assert set(service.directories) == {"model"}
    assert service.status == "FINISHED"
    assert record.info.unsynced(["fake"], len(record.points)) == []
    (warning,) = warnings_on(capsys)
    assert warning.startswith("warning: fake does not take what it is told: ")


def test_a_failure_that_cannot_even_be_let_go_is_over_all_the_same(
    record: Record, service: Service
) -> None:
    service.fail("log_points", raising(OSError("dead")))
    service.fail("abandon", raising(SystemExit(1)))

    train(record, service)

    assert service.num_fired == 2
    assert sorted(service.points, key=str) == sorted(all_points(), key=str)


def test_points_that_a_service_lost_are_told_again(
    record: Record, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.fail("close", lambda: service.points.__delitem__(slice(2, 5)))

    train(record, service)

    assert service.num_fired == 1
    assert sorted(service.points, key=str) == sorted(all_points(), key=str)
    (warning,) = warnings_on(capsys)
    assert "points did not arrive" in warning


def test_nothing_is_said_where_nobody_listens(
    record: Record, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal that was closed is no reason to tell the trackers nothing."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    service.fail("open", raising(OSError("no entry")))

    train(record, service)

    assert service.num_fired == 1
    assert service.points == all_points()


def test_what_cannot_be_noted_is_no_failure_of_the_tracker(
    record: Record,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The disk is full: the training will say so, and the tracker has all it needs."""
    tries: list[Synced] = []

    def note_synced(_: str, told: Synced) -> None:
        tries.append(told)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "note_synced", note_synced)

    train(record, service)

    assert [told.status for told in tries] == [None, "FINISHED"]
    assert service.points == all_points()
    assert service.num_opened == 1
    assert warnings_on(capsys) == []


def test_a_run_that_is_not_wanted_is_left_alone_without_a_word(
    record: Record, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.fail("open", raising(RunNotWantedError()))

    train(record, service)

    assert (service.points, service.num_opened) == ([], 1)
    assert warnings_on(capsys) == []
    assert not record.info.synced["fake"].is_wanted
    assert record.info.unsynced(["fake"], len(record.points)) == []


def test_the_work_goes_on_while_a_tracker_hangs(
    record: Record,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sync_worker, "PATIENCE_SECONDS", 0.3)
    hang = Hang()
    service.fail("log_points", hang)
    worker = SyncWorker("fake", record, service.open)
    log(worker, {"loss": 1.0}, 1)
    assert hang.began.wait(PATIENCE_SECONDS)

    for step in range(2, 50):
        log(worker, {"loss": 1 / step}, step)
    started = time.monotonic()
    finish(worker)
    waited = time.monotonic() - started
    was_given_up = hang.lasts
    told_when_given_up = record.info.synced["fake"]
    hang.is_over.set()
    worker._thread.join(PATIENCE_SECONDS)

    assert was_given_up
    assert waited > 0.2, "it was given a while"
    (warning,) = warnings_on(capsys)
    assert "it does not answer" in warning
    assert record.info.synced["fake"] == told_when_given_up, "others may write it now"
    assert record.info.unsynced(["fake"], len(record.points)) == ["fake"]


def test_a_tracker_that_does_not_open_delays_the_start_for_a_while_only(
    record: Record, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_worker, "FIRST_TRY_SECONDS", 0.2)
    hang = Hang()
    service.fail("open", hang)

    worker = SyncWorker("fake", record, service.open)
    assert hang.began.wait(PATIENCE_SECONDS)
    worker.wait_for_first_try()
    was_waited_for = not hang.lasts
    hang.is_over.set()
    finish(worker)

    assert not was_waited_for
    assert service.status == "FINISHED"


def test_a_tracker_that_never_listens_is_not_waited_for(
    record: Record,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sync_worker, "PATIENCE_WITH_FAILURE_SECONDS", 0.5)
    service.fail("open", *[raising(OSError("no entry"))] * 10_000)

    train(record, service)

    assert service.num_opened > 3, "it was tried"
    assert service.faults["open"], "it was given up, or it would be open"
    assert record.info.unsynced(["fake"], len(record.points)) == ["fake"]
    assert len(warnings_on(capsys)) == 1


def test_a_courier_that_pauses_tries_at_once_when_the_run_ends(
    record: Record, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = PATIENCE_SECONDS / 2
    monkeypatch.setattr(sync_worker, "FIRST_PAUSE_SECONDS", pause)
    service.fail("open", raising(OSError("no entry")))

    started = time.monotonic()
    train(record, service)

    assert time.monotonic() - started < pause
    assert service.points == all_points()


def test_a_quiet_courier_complains_to_nobody(
    record: Record, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.fail("open", raising(OSError("no entry")))

    worker = SyncWorker("fake", record, service.open, is_quiet=True)
    worker.wait_for_first_try()
    finish(worker)

    assert service.num_fired == 1
    assert warnings_on(capsys) == []


def test_of_a_result_that_was_found_twice_the_last_one_stays(
    record: Record, service: Service
) -> None:
    record.append({"test_loss": 2.5, "xz": 1.0}, step=None)
    record.append({"test_loss": 2.25}, step=None)
    service.points = [(None, "test_loss", 2.25), (None, "xz", 1.0)]

    finish(SyncWorker("fake", record, service.open))

    assert service.points == [(None, "test_loss", 2.25), (None, "xz", 1.0)]


def test_why_a_run_failed_is_told_and_taken_back_when_it_is_resumed(
    tmp_path: Path, record: Record, service: Service
) -> None:
    record.update(reason="no power")
    finish(SyncWorker("fake", record, service.open), status="FAILED")

    resumed = record_in(tmp_path)
    resumed.update(reason=None, metadata={"resumed.after": "no power"})
    finish(SyncWorker("fake", resumed, service.open))

    assert service.metadata == [
        {"device": "abacus", "reason": "no power"},
        {"resumed.after": "no power", "reason": ""},
    ]


def test_a_run_opened_again_is_told_nothing_twice(
    tmp_path: Path, record: Record, service: Service
) -> None:
    train(record, service)

    worker = SyncWorker("fake", record_in(tmp_path), service.open)
    log(worker, {"test_loss": 2.5}, None)
    finish(worker)

    assert service.points == [*all_points(), (None, "test_loss", 2.5)]


def test_half_a_copy_is_not_noted_as_a_copy(
    tmp_path: Path, record: Record, service: Service
) -> None:
    """A killed process leaves one, which the service lists like any other."""
    record.note_synced("fake", Synced("1", directories=["samples", "deleted"]))
    service.directories = ["model", "samples"]

    finish(SyncWorker("fake", record, service.open))
    without_model = record.info.synced["fake"].directories
    train(record_in(tmp_path), service)

    assert without_model == ["samples"]
    assert record_in(tmp_path).info.synced["fake"].directories == ["model", "samples"]


def test_copies_of_another_run_are_not_copies_of_this_one(
    record: Record, service: Service
) -> None:
    record.note_synced("fake", Synced("0", directories=["model"]))
    service.directories = ["model"]

    finish(SyncWorker("fake", record, service.open))

    assert record.info.synced["fake"] == Synced("1", status="FINISHED")


@pytest.mark.parametrize("name", ["model", "samples"])
def test_while_a_copy_is_made_only_the_others_are_noted(
    record: Record, service: Service, name: str
) -> None:
    """What is noted then is all that a killed process leaves of its notes."""
    record.note_synced("fake", Synced("1", 1, "FINISHED", ["model"]))
    noted: list[Synced] = []
    service.fail("log_directory", lambda: noted.append(record.info.synced["fake"]))
    service.directories = ["model"]

    worker = SyncWorker("fake", record, service.open)
    worker.take_directory(record.folder, name=name)
    finish(worker)

    others = sorted({"model"} - {name})
    assert noted == [Synced("1", directories=others)]
    assert record.info.synced["fake"].directories == sorted({"model", name})


def test_the_user_hears_what_went_wrong_at_first(
    record: Record, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow wraps what the database says in explanations of SQLAlchemy."""

    def fault() -> None:
        try:
            raise OSError("attempt to write a readonly database")
        except OSError as error:
            raise RuntimeError(
                "(raised as a result of Query-invoked autoflush)"
            ) from error

    service.fail("log_points", fault)

    train(record, service)

    (warning,) = warnings_on(capsys)
    assert (
        "does not take what it is told: attempt to write a readonly database. The"
        in (warning)
    )
