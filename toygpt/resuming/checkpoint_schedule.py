"""When a checkpoint is saved: every so many steps or minutes, or where it is cheap."""

import time

# The share of the time of a training that checkpoints at validations may take.
CHEAP_FRACTION = 0.02


class CheckpointSchedule:
    """Knows when the next checkpoint is due.

    Args:
        every_steps: Save one after each so many steps; without it, after a validation
            wherever the last one took at most `CHEAP_FRACTION` of the time since.
        every_minutes: Save one at the latest after so many minutes.
    """

    def __init__(self, every_steps: int | None, every_minutes: float) -> None:
        self.every_steps = every_steps
        self.every_seconds = every_minutes * 60
        self._last_time = time.monotonic()
        self._seconds_to_write = 0.0  # unknown: the first one is written to measure it

    def start(self) -> None:
        """Count the minutes from here."""
        self._last_time = time.monotonic()

    def is_due(self, step: int, *, was_validated: bool) -> bool:
        """Return whether to save a checkpoint after a step."""
        seconds = time.monotonic() - self._last_time
        if seconds >= self.every_seconds:
            return True
        if self.every_steps is not None:
            return step % self.every_steps == 0
        return was_validated and self._seconds_to_write <= CHEAP_FRACTION * seconds

    def written(self, seconds: float) -> None:
        """Note that a checkpoint was saved just now, and how long that took."""
        self._last_time = time.monotonic()
        self._seconds_to_write = seconds
