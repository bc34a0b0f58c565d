"""The record of a training: all that was logged, even if the trackers fail.

MLflow and W&B are views of it: what they miss, or lose, is synced again from here. A
record is a folder in `.toygpt/runs/` of the project that the user works in:

    run.json         name, parameters, metadata, status
    metrics.jsonl    a line for each point, on disk as soon as it is logged
    lock             held by the stage that writes these two
    reserve          of the disk, to note how a training ended that has filled it
    synced.json      what each tracker has
    sync.lock        held by the process that syncs the trackers, and writes that file
"""

import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.lock import Holder, holder_of, locked
from toygpt.tracking.points import (
    Known,
    Point,
    append_point,
    cut_torn_line,
    known_of,
    read_new_points,
    write_points,
)
from toygpt.tracking.run_info import (
    RunInfo,
    Status,
    Synced,
    all_infos,
    read_info,
    runs_folder,
    write_info,
    write_synced,
)

POINTS_FILE = "metrics.jsonl"
LOCK_FILE = "lock"
SYNC_LOCK_FILE = "sync.lock"
RESERVE_FILE = "reserve"
RESERVE_BYTES = 2**16
PROCESS_IS_GONE = "its process is gone"


class Record:
    """The record of one training, as this process has read or written it last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.points: list[Point] = []
        self._known: Known = {}
        self._num_bytes = 0  # of the points' file, as far as it has been read
        self.refresh()

    @classmethod
    def create(cls, root: Path, points: Iterable[Point] = (), **values: Any) -> Self:
        """Create the record of a training that begins, or, with points, is over."""
        info = RunInfo(**{"id": new_run_id(), "started": time.time(), **values})
        folder = runs_folder(root) / info.id
        if points:
            write_points(folder / POINTS_FILE, points)
        write_info(folder, info)  # from now on there is a record
        return cls(folder)

    def refresh(self) -> None:
        """Read what other processes have written meanwhile.

        Raises:
            InputError: The record is damaged.
        """
        self.info = read_info(self.folder)
        path = self.folder / POINTS_FILE
        if path.exists() and path.stat().st_size < self._num_bytes:  # a line taken back
            self.points, self._known, self._num_bytes = [], {}, 0
        new, self._num_bytes = read_new_points(path, self._num_bytes)
        self.points += new
        self._known |= known_of(new)

    def update(self, **changes: Any) -> None:
        """Change fields of the info; only the stage that has the lock may do so."""
        self.info = replace(self.info, **changes)
        write_info(self.folder, self.info)

    def reserve_room(self) -> None:
        """Take room on the disk, which `end` gives back."""
        with suppress(OSError):
            (self.folder / RESERVE_FILE).write_bytes(secrets.token_bytes(RESERVE_BYTES))

    def end(self, status: Status, reason: str | None, ended: float) -> None:
        """Note how the training ended, even if the disk is full."""
        (self.folder / RESERVE_FILE).unlink(missing_ok=True)
        self.update(status=status, reason=reason, ended=ended)

    def add_metadata(self, metadata: Mapping[str, str]) -> None:
        """Add properties of the whole run, besides parameters."""
        self.update(metadata={**self.info.metadata, **metadata})

    def note_synced(self, synced: Mapping[str, Synced]) -> None:
        """Note what each tracker has now."""
        self.info = replace(self.info, synced=dict(synced))
        write_synced(self.folder, synced)

    def append(self, metrics: Mapping[str, float], *, step: int | None) -> None:
        """Append a point; the values that its step has already stay.

        A resumed training repeats some steps. Results of the whole run may be new, or
        the same again.

        Raises:
            OSError: It cannot be written. All earlier points stay.
            ValueError: A metric is NaN or infinite.
        """
        new = {
            name: float(value)
            for name, value in metrics.items()
            if (step, name) not in self._known
            or (step is None and self._known[step, name] != float(value))
        }
        if not new:
            return
        point = Point(step, time.time(), new)
        path = self.folder / POINTS_FILE
        if self.points and not path.exists():  # the user deleted it
            write_points(path, self.points)
        append_point(path, point)
        self._num_bytes = path.stat().st_size
        self._known |= known_of([point])
        self.points.append(point)

    def unsynced(
        self, trackers: Iterable[str], *, at_hand: Collection[str] | None = None
    ) -> list[str]:
        """Return which trackers lack something of the run, as `RunInfo.unsynced`."""
        return self.info.unsynced(trackers, len(self.points), at_hand=at_hand)

    def writer(self) -> Holder | None:
        """Return the process that holds the record's lock, if there is one."""
        return holder_of(self.folder / LOCK_FILE)

    def is_busy(self) -> bool:
        """Return whether a process writes the record, or syncs the trackers with it."""
        syncer = holder_of(self.folder / SYNC_LOCK_FILE)
        return self.writer() is not None or syncer is not None

    def end_if_dead(self) -> bool:
        """End a run whose process is gone; return whether the run has ended."""
        try:
            with self.locked(is_patient=False):
                if self.info.status == "RUNNING":
                    times = [point.time for point in self.points]
                    ended = max(times, default=self.info.started)
                    self.end("KILLED", PROCESS_IS_GONE, ended)
        except BlockingIOError:  # a stage is logging to it
            return False
        return True

    @contextmanager
    def locked(self, *, is_patient: bool = True) -> Iterator[None]:
        """Hold the record's lock, as `alone_in` the folder, and read it again."""
        with alone_in(self.folder, is_patient=is_patient):
            self.refresh()
            yield


@contextmanager
def alone_in(folder: Path, *, is_patient: bool = True) -> Iterator[None]:
    """Hold the lock of a record's folder, before or after there is a record in it.

    Args:
        folder: In `runs_folder`.
        is_patient: Whether to wait for the process that holds the lock.

    Raises:
        BlockingIOError: Another process holds the lock, and this one does not wait.
    """
    with locked(folder / LOCK_FILE, wait=is_patient):
        cut_torn_line(folder / POINTS_FILE)
        yield


def new_run_id() -> str:
    """Return a new id; ids sort in the order in which the runs began."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def end_dead_runs(root: Path) -> None:
    """End the runs whose process is gone, before another begins."""
    for folder, info in all_infos(root):
        if info.status == "RUNNING":
            with suppress(InputError, OSError):  # the doctor says what is wrong with it
                Record(folder).end_if_dead()


def record_of_weights(root: Path, weights_sha256: str) -> Record | None:
    """Return the record of the latest training that ended with these weights.

    Raises:
        InputError: Its points are damaged.
    """
    found = [
        path for path, info in all_infos(root) if info.weights_sha256 == weights_sha256
    ]
    return Record(found[-1]) if found else None
