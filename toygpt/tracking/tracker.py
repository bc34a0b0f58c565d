"""What a training asks of each service that follows it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from toygpt.tracking.record import Known, Point, Status


class RunNotWantedError(Exception):
    """The user deleted the run from the service."""


class UserActionNeededError(Exception):
    """The service logs nothing before the user did what the message says."""


class Tracker(Protocol):
    """A run at a service, open for more."""

    run_id: str
    known: Known  # what has surely arrived
    directories: set[str]  # names of those that it had when it was opened or closed

    def log_metadata(self, metadata: Mapping[str, str]) -> None:
        """Note what is true of the whole run and no parameter: a digest, a version."""

    def log_points(self, points: Sequence[Point]) -> None:
        """Note points of curves, and results."""

    def log_directory(self, directory: Path, *, name: str) -> None:
        """Keep a copy of all files in a directory."""

    def close(self, status: Status, *, ended: float) -> None:
        """End the run; then `known` and `directories` tell what has arrived.

        Args:
            status: How it ended.
            ended: When, in seconds since 1970.
        """

    def abandon(self) -> None:
        """Let go of a run that takes no more; it may be opened again."""
