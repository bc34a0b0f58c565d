"""The record of a training: what we know of it, whatever becomes of the trackers.

MLflow and W&B are views of it. Whatever they miss, or lose, they are told again from
here. A record is a folder in `.toygpt/runs/` of the project that the user works in:

    run.json         name, parameters, metadata, status, and the trackers' ids
    metrics.jsonl    a line for each point, on disk as soon as it is known
    lock             held by the process that writes
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import naming, new_file, write_json

VERSION = 1
INFO_FILE = "run.json"
POINTS_FILE = "metrics.jsonl"
LOCK_FILE = "lock"
# As version 1 of run.json calls them: earlier toyGPTs read and write it, too.
KEYS_ON_DISK = {"metadata": "facts", "synced": "told"}

# Values by their step and name; results of the whole run stand under the step None.
Known = dict[tuple[int | None, str], float]
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Point:
    """Metrics of one step; without a step, results of the whole run."""

    step: int | None
    time: float  # seconds since 1970
    metrics: dict[str, float]


def known_of(points: Iterable[Point]) -> Known:
    """Return each value under its step and its name."""
    return {
        (point.step, name): value
        for point in points
        for name, value in point.metrics.items()
    }


@dataclass(frozen=True)
class Synced:
    """What a tracker is known to know."""

    id: str  # of the run, as the tracker has it
    num_points: int = 0
    status: Status | None = None
    directories: list[str] = field(default_factory=list)  # of which it has a copy
    is_wanted: bool = True  # otherwise the user deleted the run there


@dataclass(frozen=True)
class RunInfo:
    """What is known of a training besides its curves."""

    id: str
    name: str
    project: str
    params: dict[str, Any]
    tags: dict[str, str]
    trackers: list[str]  # who is to be told
    status: Status = "RUNNING"
    reason: str | None = None  # why it is not FINISHED
    started: float = 0.0  # seconds since 1970
    ended: float | None = None  # seconds since 1970
    metadata: dict[str, str] = field(default_factory=dict)
    weights_sha256: str | None = None
    synced: dict[str, Synced] = field(default_factory=dict)

    def is_synced(self, tracker: str, num_points: int) -> bool:
        """Say whether a tracker knows everything."""
        told = self.synced.get(tracker)
        if told is None:
            return False
        return not told.is_wanted or (
            told.num_points == num_points and told.status == self.status
        )

    def unsynced(self, trackers: Iterable[str], num_points: int) -> list[str]:
        """Return those of these trackers that follow it and do not know everything."""
        return [
            tracker
            for tracker in trackers
            if tracker in self.trackers and not self.is_synced(tracker, num_points)
        ]

    @property
    def all_metadata(self) -> dict[str, str]:
        """The metadata, and why it is not finished: of a resumed run not any more."""
        if self.reason is None and "resumed.after" not in self.metadata:
            return self.metadata
        return {**self.metadata, "reason": self.reason or ""}


class Record:
    """The record of one training, open for more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._changing = threading.Lock()
        self._read()

    @classmethod
    def create(cls, root: Path, points: Iterable[Point] = (), **what: Any) -> Record:
        """Begin the record of a training, or make that of one that is over."""
        info = RunInfo(**{"id": new_run_id(), "started": time.time(), **what})
        folder = runs_folder(root) / info.id
        if points:
            _write_points(folder / POINTS_FILE, points)
        _write_info(folder, info)  # from now on there is a record
        return cls(folder)

    def _read(self) -> None:
        self.info = read_info(self.folder)
        self.points = _read_points(self.folder / POINTS_FILE)
        self._known = known_of(self.points)

    def update(self, **changes: Any) -> None:
        """Change what is known besides the curves."""
        with self._changing:
            self.info = replace(self.info, **changes)
            _write_info(self.folder, self.info)

    def add_metadata(self, metadata: Mapping[str, str]) -> None:
        """Note what is true of the whole run and no parameter."""
        with self._changing:
            self.info = replace(self.info, metadata={**self.info.metadata, **metadata})
            _write_info(self.folder, self.info)

    def note_synced(self, tracker: str, told: Synced) -> None:
        """Note what a tracker knows now."""
        with self._changing:
            self.info = replace(self.info, synced={**self.info.synced, tracker: told})
            _write_info(self.folder, self.info)

    def append(self, metrics: Mapping[str, float], *, step: int | None) -> None:
        """Note a point; what is known of its step already stays as it was noted.

        A resumed training comes to some steps for the second time. Results of the whole
        run may be new, or the same again.

        Raises:
            OSError: It cannot be written. Whatever was noted before stays.
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
        if self.points and not path.exists():  # somebody has tidied up
            _write_points(path, self.points)
        _append_line(path, _line_of(point))
        self._known |= known_of([point])
        self.points.append(point)

    def is_being_written(self) -> bool:
        """Say whether a process is at work on it."""
        try:
            with (self.folder / LOCK_FILE).open("r") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @contextmanager
    def locked(self, *, is_patient: bool = True) -> Iterator[None]:
        """Be the only one that writes, as `alone_in` the folder."""
        with alone_in(self.folder, is_patient=is_patient):
            self._read()  # meanwhile another may have written
            yield


@contextmanager
def alone_in(folder: Path, *, is_patient: bool = True) -> Iterator[None]:
    """Be the only one that writes in the folder of a record, there already or not.

    Args:
        folder: In `runs_folder`.
        is_patient: Whether to wait for whoever writes there.

    Raises:
        BlockingIOError: Another process writes, and this one does not wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if is_patient else fcntl.LOCK_NB))
        _cut_torn_line(folder / POINTS_FILE)
        yield


def new_run_id() -> str:
    """Return an id that no other run has; in the order of their names runs began."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def runs_folder(root: Path) -> Path:
    """Return the folder of all records of a project."""
    return root / ".toygpt" / "runs"


def all_infos(root: Path) -> Iterator[tuple[Path, RunInfo]]:
    """Yield the folder of each record that can be read, and its info, oldest first."""
    folder = runs_folder(root)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        with suppress(InputError):
            yield path, read_info(path)


def record_of_weights(root: Path, weights_sha256: str) -> Record | None:
    """Return the record of the training that a model came of, the latest one."""
    found = [
        path for path, info in all_infos(root) if info.weights_sha256 == weights_sha256
    ]
    return Record(found[-1]) if found else None


def _write_info(folder: Path, info: RunInfo) -> None:
    values = asdict(info)
    for name, key in KEYS_ON_DISK.items():
        values[key] = values.pop(name)
    write_json(folder / INFO_FILE, {"version": VERSION, **values})


def read_info(folder: Path) -> RunInfo:
    """Read what is known of a training besides its curves.

    Raises:
        InputError: The folder holds no record.
    """
    path = folder / INFO_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("version") != VERSION:
            raise ValueError(f"this toyGPT reads version {VERSION}")
        for name, key in KEYS_ON_DISK.items():
            values[name] = values.pop(key)
        entries = values.pop("synced").items()
        return RunInfo(
            **values, synced={name: Synced(**entry) for name, entry in entries}
        )
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no record of a training: {error!r}") from None


def _line_of(point: Point) -> bytes:
    return (json.dumps(asdict(point), allow_nan=False) + "\n").encode()


def _write_points(path: Path, points: Iterable[Point]) -> None:
    with new_file(path) as file:
        for point in points:
            file.write(_line_of(point))


def _append_line(path: Path, line: bytes) -> None:
    """Add a line and see it on the disk; what is added in part is taken back."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with naming(path), path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            os.truncate(path, size)
        raise


def count_points(folder: Path) -> int:
    """Return how many points a record has, without reading what they are."""
    try:
        return (folder / POINTS_FILE).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _read_points(path: Path) -> list[Point]:
    """Read all points; a last line that has no end yet is none."""
    try:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        return [Point(**json.loads(line)) for line in whole.splitlines()]
    except FileNotFoundError:
        return []
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({error!r}): remove the lines that are no JSON"
        ) from None


def _cut_torn_line(path: Path) -> None:
    """Remove a last line that a crash cut short: the next must begin on its own."""
    if path.is_file():
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)
