"""Keep one tracker up to date with a record, however often the tracker fails."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic

from toygpt.pipeline.errors import first_line
from toygpt.pipeline.process import without_garbage_collection
from toygpt.pipeline.warning import warn
from toygpt.tracking.points import Point, curves_of, known_of
from toygpt.tracking.record import Record
from toygpt.tracking.run_info import RunInfo, Synced
from toygpt.tracking.tracker import RunNotWantedError, Tracker, UserActionNeededError

# Between tries at a tracker that fails, doubled each time: it may fail for hours, and
# to open it costs seconds of processor time that the training needs.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
SECONDS_TO_RELEASE = 10.0  # a tracker that has failed


class Connection:
    """A tracker that is kept up to date with a record.

    A tracker may be slow, locked, full, damaged or dead. Then it is opened again, later
    and later, asked what it has, and gets everything that it lacks: after an error it
    may have lost anything. This process warns the user once.
    """

    def __init__(
        self,
        name: str,
        record: Record,
        open_tracker: Callable[[RunInfo], Tracker],
        *,
        is_quiet: bool = False,
    ) -> None:
        self.name = name
        self.is_settled = False  # complete, or refused
        self._record = record
        self._open_tracker = open_tracker
        self._tracker: Tracker | None = None
        self._has_warned = is_quiet
        noted = record.info.synced.get(name)
        self._missing = set(noted.missing) if noted else set()
        self.try_at_once()

    def try_at_once(self) -> None:
        """Forget how long the tracker has failed: the run has ended."""
        self._next_try = 0.0
        self._pause = FIRST_PAUSE_SECONDS

    def expect(self, names: Iterable[str], *, again: bool) -> None:
        """Note directories of which the tracker shall get a copy, before it gets one.

        Args:
            names: Of the directories.
            again: Whether it gets them even if it has a copy of an earlier state.
        """
        noted = self._record.info.synced.get(self.name, Synced(""))
        self._missing |= {it for it in names if again or it not in noted.directories}
        if noted.is_wanted and self._missing != set(noted.missing):
            self._note(replace(noted, missing=sorted(self._missing)))

    def sync(
        self,
        directories: Mapping[str, Path],
        *,
        limit_seconds: float,
        is_last: bool = False,
    ) -> None:
        """Log everything that the tracker lacks, unless it failed a moment ago.

        Args:
            directories: Those that are missing are copied.
            limit_seconds: How long the tracker may take; then it has failed.
            is_last: Whether to end the run at the tracker, as the record says.
        """
        if self.is_settled or monotonic() < self._next_try:
            return
        try:
            with _time_limit(limit_seconds):
                if self._tracker is None and not is_last:
                    self._open()  # it may take all of the time
                    return
                tracker = self._tracker or self._open()
                self._log_what_is_missing(tracker, directories)
                if is_last:
                    self._close(tracker)
                    self.is_settled = True
            self._pause = FIRST_PAUSE_SECONDS
        except RunNotWantedError:
            self._note(Synced("", is_wanted=False))
            self.is_settled = True
        except UserActionNeededError as error:
            self._warn(f"{self.name} logs nothing: {error}. The run is recorded.")
            self.is_settled = True
        except (Exception, SystemExit) as error:
            self._warn(
                f"{self.name} cannot be synced: {first_line(_root_cause(error))}. The "
                f"work continues; {self.name} is tried again, and can be synced later "
                f"by `python . track`."
            )
            self.abandon()
            self._next_try = monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def abandon(self) -> None:
        """Release a tracker that has failed, or whose run another process continues."""
        if self._tracker is not None:
            with suppress(Exception, SystemExit), _time_limit(SECONDS_TO_RELEASE):
                self._tracker.abandon()
            self._tracker = None

    def _open(self) -> Tracker:
        """Open the tracker, and note that its run is open, and so not complete."""
        with without_garbage_collection():  # to open it is to import much
            tracker = self._tracker = self._open_tracker(self._record.info)
        self._num_points = 0
        self._metadata: dict[str, str] = {}
        self._copied: set[str] = set()
        self._whole_before: set[str] = set()  # copies that the record calls whole
        before = self._record.info.synced.get(self.name)
        if before is not None and before.id == tracker.run_id:
            self._whole_before.update(before.directories)
        elif before is not None:  # another run, after the first was lost
            self._missing.update(before.directories)
        self._note_incomplete(tracker)
        return tracker

    def _log_what_is_missing(
        self, tracker: Tracker, directories: Mapping[str, Path]
    ) -> None:
        metadata = self._record.info.all_metadata
        if metadata != self._metadata:
            tracker.log_metadata(metadata)
            self._metadata = metadata

        if missing := _missing(self._record.points[self._num_points :], tracker):
            tracker.log_points(missing)
        self._num_points = len(self._record.points)

        for name, directory in directories.items():
            if name in self._copied or name not in self._missing:
                continue
            if name in self._whole_before:  # that copy is overwritten
                self._whole_before.remove(name)
                self._note_incomplete(tracker)
            tracker.log_directory(directory, name=name)
            self._copied.add(name)

    def _close(self, tracker: Tracker) -> None:
        """End the run, and note what the tracker confirms.

        Raises:
            OSError: Points did not arrive.
        """
        info = self._record.info
        tracker.close(info.status, ended=info.ended or time.time())
        if lost := _missing(curves_of(self._record.points), tracker):
            raise OSError(f"{len(lost)} points did not arrive")
        # A killed process may have left half a copy, which the tracker lists as well.
        whole = self._copied | self._whole_before
        self._missing -= self._copied & tracker.directories
        self._note(
            Synced(
                tracker.run_id,
                num_points=self._num_points,
                status=info.status,
                directories=sorted(tracker.directories & whole),
                missing=sorted(self._missing),
            )
        )

    def _note_incomplete(self, tracker: Tracker) -> None:
        self._note(
            Synced(
                tracker.run_id,
                directories=sorted(self._whole_before),
                missing=sorted(self._missing),
            )
        )

    def _note(self, synced: Synced) -> None:
        # What is not noted is looked up at the tracker, and synced again at worst.
        with suppress(OSError):
            self._record.note_synced({**self._record.info.synced, self.name: synced})

    def _warn(self, message: str) -> None:
        """Print a warning, the first time only."""
        if not self._has_warned:
            self._has_warned = True
            with suppress(OSError, ValueError):  # the output is closed
                warn(message)


def _missing(points: list[Point], tracker: Tracker) -> list[Point]:
    """Return the values that a tracker lacks; of equal results, only the last one."""
    latest = known_of(points)
    missing = []
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
            missing.append(Point(point.step, point.time, metrics))
    return missing


def _root_cause(error: BaseException) -> BaseException:
    """Return the first error of a chain: "disk full", not its consequences.

    MLflow's client does not name the cause of an error, and quotes it.
    """
    cause = error.__cause__
    if (
        cause is None
        and (quoted := str(error.__context__ or ""))
        and quoted in str(error)
    ):
        cause = error.__context__
    return error if cause is None else _root_cause(cause)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise a TimeoutError in what hangs in the block, and again if that is caught."""

    def stop(*_: object) -> None:
        raise TimeoutError("it does not answer")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
