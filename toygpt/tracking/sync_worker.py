"""Keep one tracker up to date with a record, in a thread that never blocks the work."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

from toygpt.pipeline.errors import first_line
from toygpt.tracking.connection import Connection
from toygpt.tracking.record import Record, Synced
from toygpt.tracking.tracker import RunNotWantedError, Tracker, UserActionNeededError

# Between tries at a tracker that fails, doubled each time: it may fail for hours, and
# to open it costs seconds of processor time that the training needs.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
# How long the start of a run waits for a tracker that hangs.
FIRST_TRY_SECONDS = 30.0
# How long the end of a run waits: for a tracker that is still being synced (W&B's own
# limit for an upload is 60 s), and for one that fails.
PATIENCE_SECONDS = 90.0
PATIENCE_WITH_FAILURE_SECONDS = 10.0


class SyncWorker:
    """A thread that keeps one tracker up to date with a record.

    A tracker may be slow, locked, full, damaged or dead. Then it is opened again, later
    and later, and gets everything that it lacks. The user is warned once.
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
        self._connection: Connection | None = None
        self._directories: dict[str, Path] = {}
        self._has_warned = is_quiet

        self._has_changed = Event()  # the record
        self._has_changed.set()
        self._is_finishing = Event()
        self._finish_began = float("inf")
        self._has_tried = Event()
        self._is_given_up = False  # the run has ended; another process may sync it now
        self._thread = Thread(
            target=self._work, name=f"{name} sync worker", daemon=True
        )
        self._thread.start()

    def wait_for_first_try(self) -> None:
        """Return when the tracker has been synced once, or has failed to open.

        Opening imports many modules. Threads that import at once may lock each other
        out, and take longer than one after the other: each time that one of them reads
        a file it releases Python's lock (the GIL), and has to wait to get it back.
        """
        self._has_tried.wait(FIRST_TRY_SECONDS)

    def sync_soon(self) -> None:
        """Wake the thread: the record has changed."""
        self._has_changed.set()

    def sync_directory(self, directory: Path, *, name: str) -> None:
        """Wake the thread: the tracker shall keep a copy of a directory."""
        self._directories[name] = directory
        self._has_changed.set()

    def begin_finish(self) -> None:
        """Wake the thread: the run has ended."""
        self._finish_began = time.monotonic()
        self._is_finishing.set()
        self._has_changed.set()

    def wait_for_finish(self) -> None:
        """Return when everything is synced, or the tracker does not answer in time."""
        waited = time.monotonic() - self._finish_began
        self._thread.join(max(0.0, PATIENCE_SECONDS - waited))
        if self._thread.is_alive():
            self._is_given_up = True
            self._warn_of_failure("it does not answer")

    def _work(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._is_given_up:
            self._has_changed.wait()
            self._has_changed.clear()
            is_last = self._is_finishing.is_set()
            try:
                connection = self._connect()
                connection.sync(dict(self._directories))
                if is_last:
                    connection.close()
                    return
                pause = FIRST_PAUSE_SECONDS
            except RunNotWantedError:
                self._note(Synced("", is_wanted=False))
                return
            except UserActionNeededError as error:
                self._warn(f"{self.name} logs nothing: {error}. The run is recorded.")
                return
            except BaseException as error:  # even SystemExit must not end the training
                if self._is_given_up:
                    return
                self._warn_of_failure(first_line(_root_cause(error)))
                self._abandon()
                self._has_tried.set()
                if not self._wait_to_retry(pause):
                    return
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            finally:
                self._has_tried.set()

    def _connect(self) -> Connection:
        """Return the open tracker; open it if there is none."""
        if self._connection is None:
            self._connection = Connection(
                self._open_tracker(),
                self.record,
                self.record.info.synced.get(self.name),
                note=self._note,
            )
        return self._connection

    def _abandon(self) -> None:
        if self._connection is not None:
            with suppress(BaseException):  # it has failed, and the user knows
                self._connection.tracker.abandon()
            self._connection = None

    def _wait_to_retry(self, pause: float) -> bool:
        """Wait for the pause or the end of the run; return whether to try again."""
        self._has_changed.set()
        if not self._is_finishing.is_set():
            self._is_finishing.wait(pause)
            return True
        waited = time.monotonic() - self._finish_began
        if waited + pause > PATIENCE_WITH_FAILURE_SECONDS:
            return False
        time.sleep(pause)
        return True

    def _note(self, synced: Synced) -> None:
        if not self._is_given_up:
            # What is not noted is looked up at the tracker, and synced again at worst.
            with suppress(OSError):
                self.record.note_synced(self.name, synced)

    def _warn_of_failure(self, reason: str) -> None:
        self._warn(
            f"{self.name} cannot be synced: {reason}. The work continues; {self.name} "
            f"is tried again, and can be synced later by `python . track`."
        )

    def _warn(self, message: str) -> None:
        """Print a warning, the first time only."""
        if self._has_warned:
            return
        self._has_warned = True
        with suppress(OSError, ValueError):  # the output is closed
            print(f"warning: {message}", file=sys.stderr, flush=True)


def _root_cause(error: BaseException) -> BaseException:
    """Return the first error of a chain: "disk full", not its consequences."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
