"""The record of a training: all that was logged, even if the trackers fail.

MLflow and W&B are views of it: what they miss, or lose, is synced again from here. A
record is a folder in `.toygpt/runs/` of the project that the user works in:

    run.json         name, parameters, metadata, status, and what each tracker has
    metrics.jsonl    a line for each point, on disk as soon as it is logged
    lock             held by the process that writes
"""

import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import write_json
from toygpt.pipeline.json_file import read_json
from toygpt.pipeline.lock import holder_of, locked
from toygpt.tracking.points import (
    Point,
    append_point,
    cut_torn_line,
    known_of,
    read_points,
    write_points,
)

VERSION = 1
INFO_FILE = "run.json"
POINTS_FILE = "metrics.jsonl"
LOCK_FILE = "lock"
# Two fields have other names in run.json: those of earlier toyGPTs, so that earlier and
# later ones can read each other's records.
KEYS_ON_DISK = {"facts": "metadata", "told": "synced"}

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Synced:
    """What a tracker is known to have of a run."""

    id: str  # of the run at the tracker
    num_points: int = 0
    status: Status | None = None
    directories: list[str] = field(default_factory=list)  # of which it has a copy
    is_wanted: bool = True  # otherwise the user deleted the run there


@dataclass(frozen=True)
class RunInfo:
    """What is known of a training, besides its points."""

    id: str
    name: str
    project: str
    params: dict[str, Any]
    tags: dict[str, str]
    trackers: list[str]  # names of those that show the run
    status: Status = "RUNNING"
    reason: str | None = None  # why it is not FINISHED
    started: float = 0.0  # seconds since 1970
    ended: float | None = None  # seconds since 1970
    metadata: dict[str, str] = field(default_factory=dict)
    weights_sha256: str | None = None
    synced: dict[str, Synced] = field(default_factory=dict)  # by tracker

    def unsynced(self, trackers: Iterable[str], num_points: int) -> list[str]:
        """Return which of these trackers show the run, but lack something of it."""
        return [
            tracker
            for tracker in trackers
            if tracker in self.trackers and not self._is_synced(tracker, num_points)
        ]

    def _is_synced(self, tracker: str, num_points: int) -> bool:
        synced = self.synced.get(tracker)
        if synced is None:
            return False
        return not synced.is_wanted or (
            synced.num_points == num_points and synced.status == self.status
        )

    @property
    def all_metadata(self) -> dict[str, str]:
        """The metadata and the reason; the reason of a resumed run is empty."""
        if self.reason is None and "resumed.after" not in self.metadata:
            return self.metadata
        return {**self.metadata, "reason": self.reason or ""}


class Record:
    """The record of one training, open for more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._changing = threading.Lock()  # the run and its sync workers write it
        self._read()

    @classmethod
    def create(cls, root: Path, points: Iterable[Point] = (), **values: Any) -> Self:
        """Create the record of a training that begins, or, with points, is over."""
        info = RunInfo(**{"id": new_run_id(), "started": time.time(), **values})
        folder = runs_folder(root) / info.id
        if points:
            write_points(folder / POINTS_FILE, points)
        _write_info(folder, info)  # from now on there is a record
        return cls(folder)

    def _read(self) -> None:
        self.info = read_info(self.folder)
        self.points = read_points(self.folder / POINTS_FILE)
        self._known = known_of(self.points)

    def update(self, **changes: Any) -> None:
        """Change fields of the info."""
        with self._changing:
            self._write(**changes)

    def add_metadata(self, metadata: Mapping[str, str]) -> None:
        """Add properties of the whole run, besides parameters."""
        with self._changing:
            self._write(metadata={**self.info.metadata, **metadata})

    def note_synced(self, tracker: str, synced: Synced) -> None:
        """Note what a tracker has now."""
        with self._changing:
            self._write(synced={**self.info.synced, tracker: synced})

    def _write(self, **changes: Any) -> None:
        self.info = replace(self.info, **changes)
        _write_info(self.folder, self.info)

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
        self._known |= known_of([point])
        self.points.append(point)

    def unsynced(self, trackers: Iterable[str]) -> list[str]:
        """Return which of these trackers show the run, but lack something of it."""
        return self.info.unsynced(trackers, len(self.points))

    def is_being_written(self) -> bool:
        """Return whether a process holds the record's lock."""
        return holder_of(self.folder / LOCK_FILE) is not None

    @contextmanager
    def locked(self, *, is_patient: bool = True) -> Iterator[None]:
        """Hold the record's lock, as `alone_in` the folder, and read it again."""
        with alone_in(self.folder, is_patient=is_patient):
            self._read()  # meanwhile another process may have written
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


def runs_folder(root: Path) -> Path:
    """Return the folder of all records of a project."""
    return root / ".toygpt" / "runs"


def all_infos(root: Path) -> Iterator[tuple[Path, RunInfo]]:
    """Yield the folder and the info of each readable record, oldest first."""
    folder = runs_folder(root)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        with suppress(InputError):
            yield path, read_info(path)


def record_of_weights(root: Path, weights_sha256: str) -> Record | None:
    """Return the record of the latest training that ended with these weights.

    Raises:
        InputError: Its points are damaged.
    """
    found = [
        path for path, info in all_infos(root) if info.weights_sha256 == weights_sha256
    ]
    return Record(found[-1]) if found else None


def _write_info(folder: Path, info: RunInfo) -> None:
    values = asdict(info)
    for key, name in KEYS_ON_DISK.items():
        values[key] = values.pop(name)
    write_json(folder / INFO_FILE, {"version": VERSION, **values})


def read_info(folder: Path) -> RunInfo:
    """Return what is known of a training, besides its points.

    Raises:
        InputError: The folder has no record, or a damaged one.
    """
    path = folder / INFO_FILE
    try:
        return read_json(
            path,
            RunInfo,
            version=VERSION,
            advice="`python . doctor` says how to put it aside",
            renamed=KEYS_ON_DISK,
        )
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path} is not the record of a training: {reason}") from None
