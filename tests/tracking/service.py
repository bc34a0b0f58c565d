"""A tracker that keeps what arrives, and fails when a test wants it to."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from toygpt.tracking.points import Known, Point, known_of
from toygpt.tracking.record import RunInfo, Status

# An error that a call raises, or a function that it calls before its work.
Fault = BaseException | Callable[[], object]


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

    def open(self, info: RunInfo | None = None, *_: object) -> Self:
        """Open the run of a record, as a tracker's class does."""
        self.opened.append(info.id if info else "")
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
