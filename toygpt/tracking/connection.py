"""An open tracker, and which part of a record it has."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from toygpt.tracking.points import Point, curves_of, known_of
from toygpt.tracking.record import Record, Synced
from toygpt.tracking.tracker import Tracker


class Connection:
    """An open tracker, and which part of a record it has.

    After an error the tracker may have lost anything: it is opened again, in a new
    connection, which asks the tracker what it has.
    """

    def __init__(
        self,
        tracker: Tracker,
        record: Record,
        before: Synced | None,
        *,
        note: Callable[[Synced], None],
    ) -> None:
        """Note that the tracker's run is open, and so not complete.

        Args:
            tracker: Newly opened.
            record: To be synced.
            before: What the record says of this tracker.
            note: Writes what the tracker has to the record.
        """
        self.tracker = tracker
        self.record = record
        self._note = note
        self._num_points = 0
        self._metadata: dict[str, str] = {}
        self._copied: set[str] = set()
        self._whole_before: set[str] = set()  # copies that the record calls whole
        if before is not None and before.id == tracker.run_id:
            self._whole_before.update(before.directories)
        self._note_incomplete()

    def sync(self, directories: Mapping[str, Path]) -> None:
        """Log everything in the record that the tracker lacks."""
        metadata = self.record.info.all_metadata
        if metadata != self._metadata:
            self.tracker.log_metadata(metadata)
            self._metadata = metadata

        num_points = len(self.record.points)
        points = self.record.points[self._num_points : num_points]
        if missing := _missing(points, self.tracker):
            self.tracker.log_points(missing)
        self._num_points = num_points

        for name, directory in directories.items():
            if name in self._copied:
                continue
            if name in self._whole_before:  # that copy is overwritten
                self._whole_before.remove(name)
                self._note_incomplete()
            self.tracker.log_directory(directory, name=name)
            self._copied.add(name)

    def close(self) -> None:
        """End the run, and note what the tracker confirms.

        Raises:
            OSError: Points did not arrive.
        """
        info = self.record.info
        self.tracker.close(info.status, ended=info.ended or time.time())
        if lost := _missing(curves_of(self.record.points), self.tracker):
            raise OSError(f"{len(lost)} points did not arrive")
        # A killed process may have left half a copy, which the tracker lists as well.
        whole = self._copied | self._whole_before
        self._note(
            Synced(
                self.tracker.run_id,
                num_points=self._num_points,
                status=info.status,
                directories=sorted(self.tracker.directories & whole),
            )
        )

    def _note_incomplete(self) -> None:
        directories = sorted(self._whole_before)
        self._note(Synced(self.tracker.run_id, directories=directories))


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
