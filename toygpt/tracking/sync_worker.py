"""Tell a tracker what the record says, beside the work and never in its way."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Condition, Event, Thread

from toygpt.pipeline.errors import first_line
from toygpt.tracking.record import Point, Record, Synced, known_of
from toygpt.tracking.tracker import (
    RunNotWantedError,
    Tracker,
    UserActionNeededError,
)

# Between tries at a tracker that fails: at first, and at most.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
# Before anything else is done: how long a tracker may take to open.
FIRST_TRY_SECONDS = 30.0
# When everything else is done: how long a tracker may take to hear the last of it, and
# how long one that fails is tried again.
PATIENCE_SECONDS = 90.0
PATIENCE_WITH_FAILURE_SECONDS = 10.0


class SyncWorker:
    """A thread that keeps one tracker up to date with a record.

    A tracker may be slow, locked, full, damaged or dead. Then it is opened again, later
    and later, asked what it knows, and told the rest. The user hears of it once.
    """

    def __init__(
        self,
        name: str,
        record: Record,
        open_tracker: Callable[[], Tracker],
        *,
        is_quiet: bool = False,
    ) -> None:
        self.name = name
        self.record = record
        self._open_tracker = open_tracker
        self._tracker: Tracker | None = None
        self._num_points_synced = 0
        self._metadata_synced: dict[str, str] = {}
        self._directories: dict[str, Path] = {}
        self._directories_synced: set[str] = set()
        self._directories_before: set[str] = set()  # whole copies, noted earlier

        self._news = Condition()
        self._has_news = True
        self._is_last = False
        self._has_complained = is_quiet
        self._is_given_up = False
        self._asked_to_finish = float("inf")
        self._has_tried = Event()
        self._thread = Thread(target=self._work, name=f"{name} worker", daemon=True)
        self._thread.start()

    def wait_for_first_try(self) -> None:
        """Return when the tracker has heard the first of it, or does not open.

        Opening imports much. Threads that import at once may lock each other out, and
        take longer than one after the other: each time that one of them reads a file
        it lets go of Python's lock (the GIL), and has to wait to get it back.
        """
        self._has_tried.wait(FIRST_TRY_SECONDS)

    def tell_news(self) -> None:
        """Have the record read again."""
        with self._news:
            self._has_news = True
            self._news.notify()

    def take_directory(self, directory: Path, *, name: str) -> None:
        """Have a copy of a directory kept."""
        with self._news:
            self._directories[name] = directory
            self._has_news = True
            self._news.notify()

    def ask_to_finish(self) -> None:
        """Have the rest told, the run's end included."""
        with self._news:
            self._is_last = self._has_news = True
            self._asked_to_finish = time.monotonic()
            self._news.notify()

    def wait_for_finish(self) -> None:
        """Return when the rest is told, or after a while, for nobody waits forever."""
        waited = time.monotonic() - self._asked_to_finish
        self._thread.join(max(0.0, PATIENCE_SECONDS - waited))
        if self._thread.is_alive():
            self._is_given_up = True
            self._complain("it does not answer")

    def _work(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._is_given_up:
            with self._news:
                self._news.wait_for(lambda: self._has_news)
                self._has_news = False
                is_last = self._is_last
            try:
                self._tell_everything()
                if is_last:
                    self._close()
                    return
                pause = FIRST_PAUSE_SECONDS
            except RunNotWantedError:
                self._note(Synced("", is_wanted=False))
                return
            except UserActionNeededError as error:
                self._warn(f"{self.name} logs nothing: {error}. The run is recorded.")
                return
            except BaseException as error:  # even SystemExit: the work goes on
                if self._is_given_up:  # by now another worker may tell this tracker
                    return
                self._complain(first_line(_first_cause(error)))
                self._let_go()
                if self._wait_before_next_try(pause):
                    return
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            finally:
                self._has_tried.set()

    def _wait_before_next_try(self, pause: float) -> bool:
        """Wait, and say whether there is no use in trying again."""
        self._has_tried.set()
        with self._news:
            self._has_news = True
            if not self._is_last:
                self._news.wait_for(lambda: self._is_last, pause)
                return False
            waited = time.monotonic() - self._asked_to_finish
            if waited + pause > PATIENCE_WITH_FAILURE_SECONDS:
                return True
            self._news.wait(pause)
            return False

    def _tell_everything(self) -> None:
        if self._tracker is None:
            self._tracker = self._open_tracker()
            before = self.record.info.synced.get(self.name)
            self._directories_before = set()
            if before is not None and before.id == self._tracker.run_id:
                self._directories_before.update(before.directories)
            self._note_opened()
        tracker, metadata = self._tracker, self.record.info.all_metadata
        if metadata != self._metadata_synced:
            tracker.log_metadata(metadata)
            self._metadata_synced = metadata

        num_points = len(self.record.points)
        points = self.record.points[self._num_points_synced : num_points]
        if new := _unknown(points, tracker):
            tracker.log_points(new)
        self._num_points_synced = num_points

        for name, directory in list(self._directories.items()):
            if name not in self._directories_synced:
                if name in self._directories_before:  # that copy is overwritten
                    self._directories_before.remove(name)
                    self._note_opened()
                tracker.log_directory(directory, name=name)
                self._directories_synced.add(name)

    def _close(self) -> None:
        assert self._tracker is not None, "it was just told everything"
        info = self.record.info
        self._tracker.close(info.status, ended=info.ended or time.time())
        curves = [point for point in self.record.points if point.step is not None]
        if lost := _unknown(curves, self._tracker):
            raise OSError(f"{len(lost)} points did not arrive")
        # A process that was killed may have left half a copy, which is listed, too.
        whole = self._directories_synced | self._directories_before
        self._note(
            Synced(
                self._tracker.run_id,
                num_points=self._num_points_synced,
                status=info.status,
                directories=sorted(self._tracker.directories & whole),
            )
        )

    def _note_opened(self) -> None:
        """Note the run as incomplete at the tracker, and which copies are whole."""
        assert self._tracker is not None
        directories = sorted(self._directories_before)
        self._note(Synced(self._tracker.run_id, directories=directories))

    def _note(self, told: Synced) -> None:
        if not self._is_given_up:  # by now another process may write the record
            # What is not noted is looked up at the tracker, and told again at worst.
            with suppress(OSError):
                self.record.note_synced(self.name, told)

    def _complain(self, reason: str) -> None:
        self._warn(
            f"{self.name} does not take what it is told: {reason}. The work goes on; "
            f"{self.name} is told again until it listens, and later by `python . "
            f"track`."
        )

    def _warn(self, message: str) -> None:
        """Warn once of this tracker."""
        if self._has_complained:
            return
        self._has_complained = True
        with suppress(OSError, ValueError):  # nobody reads what we say
            print(f"warning: {message}", file=sys.stderr, flush=True)

    def _let_go(self) -> None:
        """Begin anew with the tracker: it may have lost anything."""
        if self._tracker is not None:
            with suppress(BaseException):  # it has failed, and the user knows
                self._tracker.abandon()
        self._tracker = None
        self._num_points_synced = 0
        self._metadata_synced = {}
        self._directories_synced = set()


def _first_cause(error: BaseException) -> BaseException:
    """Return what went wrong at first: "disk full", not what came of it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _unknown(points: list[Point], tracker: Tracker) -> list[Point]:
    """Return what a tracker does not know of these points.

    Of a result that was found several times, only the last counts.
    """
    latest = known_of(points)
    found = []
    for point in points:
        metrics = {
            name: value
            for name, value in point.metrics.items()
            if (point.step, name) not in tracker.known
            or (
                point.step is None
                and tracker.known[None, name] != value == latest[None, name]
            )
        }
        if metrics:
            found.append(Point(point.step, point.time, metrics))
    return found
