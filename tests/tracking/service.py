"""A tracker that keeps what arrives, and what syncs it in the process of a test."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event
from typing import Self
from unittest.mock import patch

from tests.project import PATIENCE_SECONDS
from toygpt.pipeline.params import TrackingParams
from toygpt.tracking.follower import Follower
from toygpt.tracking.points import Known, Point, known_of
from toygpt.tracking.record import Record
from toygpt.tracking.run_info import RunInfo, Status
from toygpt.tracking.stage import Stage
from toygpt.tracking.sync import bring_up_to_date, sync, syncing

# An error that a call raises, or a function that it calls before its work.
Fault = BaseException | Callable[[], object]
# A call that does not answer before its test has failed.
HANG = partial(Event().wait, 2 * PATIENCE_SECONDS)


class Service:
    """A service with one run, and the tracker that is open there."""

    run_id = "1"

    def __init__(self) -> None:
        self.points: list[tuple[int | None, str, float]] = []
        self.metadata: list[dict[str, str]] = []
        self.directories: set[str] = set()
        self.statuses: list[Status] = []
        self.opened: list[str] = []  # ids of records
        self.faults: dict[str, list[Fault]] = {}
        self.num_fired = 0

    def fail(self, method: str, *faults: Fault) -> None:
        self.faults[method] = list(faults)

    def meet_fault(self, method: str) -> None:
        if self.faults.get(method):
            self.num_fired += 1
            fault = self.faults[method].pop(0)
            if isinstance(fault, BaseException):
                raise fault
            fault()

    def open(self, info: RunInfo, **_: object) -> Self:
        """Open the run of a record, as a tracker's class does."""
        self.opened.append(info.id)
        self.meet_fault("open")
        self._look_up()
        return self

    def _look_up(self) -> None:
        self.known: Known = {(step, name): value for step, name, value in self.points}

    def log_metadata(self, metadata: Mapping[str, str]) -> None:
        self.meet_fault("log_metadata")
        self.metadata.append(dict(metadata))

    def log_points(self, points: Sequence[Point]) -> None:
        for point in points:
            for name, value in point.metrics.items():
                self.meet_fault("log_points")
                self.points.append((point.step, name, value))
        self.known |= known_of(points)

    def log_directory(self, directory: Path, *, name: str) -> None:
        self.meet_fault("log_directory")
        self.directories.add(name)

    def close(self, status: Status, *, ended: float) -> None:
        self.meet_fault("close")
        self.statuses.append(status)
        self._look_up()

    def abandon(self) -> None:
        self.meet_fault("abandon")


class FollowerWithin(Follower):
    """Syncs the trackers in this process, once the stage has logged everything."""

    def _start(self) -> None:
        """Start no process."""

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            with syncing(self._folder) as record:
                stage = StageWithin(record, self.directories)
                sync(record, self._tracking, self._root, stage=stage)
            bring_up_to_date(
                self._tracking, self._root, except_run=self._folder.name, is_quiet=True
            )


class StageWithin(Stage):
    """The stage in this process: it is at work while it holds the record's lock."""

    def __init__(self, record: Record, directories: dict[str, Path]) -> None:
        super().__init__()
        self._record = record
        self._directories = directories

    def is_at_work(self) -> bool:
        return self._record.writer() is not None

    def directories(self) -> dict[str, Path]:
        return self._directories


def sync_beside(
    record: Record,
    tracking: TrackingParams,
    root: Path,
    *steps: Callable[[], object],
    directories: dict[str, Path] | None = None,
    is_quiet: bool = False,
) -> None:
    """Sync a record live: after each time, the stage that writes it takes a step.

    After the last one it ends.
    """
    left = list(steps)
    with ExitStack() as stage:
        stage.enter_context(record.locked())
        stage.callback(lambda: record.update(status="FINISHED", ended=time.time()))

        def work(seconds: float) -> None:
            if left:
                left.pop(0)()
            elif record.writer():
                stage.close()
            else:
                time.sleep(seconds)

        followed = Record(record.folder)
        with patch("toygpt.tracking.sync.sleep", work):
            sync(
                followed,
                tracking,
                root,
                stage=StageWithin(record, directories or {}),
                is_quiet=is_quiet,
            )
    record.refresh()
