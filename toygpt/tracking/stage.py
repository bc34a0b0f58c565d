"""The stage that a process beside it follows, as that process sees it."""

import json
import os
import sys
from pathlib import Path
from select import select


class Stage:
    """The stage that started this process, and writes the record meanwhile."""

    def __init__(self) -> None:
        self._process = os.getppid()
        self.ended: float | None = None  # by `time.monotonic`, once it has said so

    def is_alive(self) -> bool:
        """Return whether its process has not ended."""
        return os.getppid() == self._process

    def is_at_work(self) -> bool:
        """Return whether it may log more; at its end it sends a line."""
        return self.is_alive() and not select([sys.stdin], [], [], 0)[0]

    def directories(self) -> dict[str, Path]:
        """Return of which directories the trackers shall keep a copy.

        A stage that was killed says nothing, and its files may be half written.
        """
        line = sys.stdin.readline() if self.is_alive() else ""
        end = json.loads(line or "{}")
        self.ended = end.get("ended")
        return {name: Path(path) for name, path in end.get("directories", {}).items()}
