"""What the pipeline needs of each service that shows its runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from toygpt.tracking.points import Known, Point
from toygpt.tracking.run_info import Status


class RunNotWantedError(Exception):
    """The user deleted the run from the service."""


class UserActionNeededError(Exception):
    """The service logs nothing before the user did what the message says."""


class Tracker(Protocol):
    """A run at a service, open for more."""

    run_id: str
    known: Known  # values that have surely arrived
    directories: set[str]  # names of its copies, when it was opened or closed

    def log_metadata(self, metadata: Mapping[str, str]) -> None:
        """Log properties of the whole run, besides parameters: a digest, a version."""

    def log_points(self, points: Sequence[Point]) -> None:
        """Log points of curves, and results."""

    def log_directory(self, directory: Path, *, name: str) -> None:
        """Keep a copy of all files in a directory."""

    def close(self, status: Status, *, ended: float) -> None:
        """End the run, and look up in `known` and `directories` what has arrived.

        Args:
            status: How it ended.
            ended: When, in seconds since 1970.
        """

    def abandon(self) -> None:
        """Release a run that failed; it may be opened again."""
