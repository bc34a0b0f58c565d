"""When a checkpoint is due."""

import time

import pytest

from toygpt.resuming.checkpoint_schedule import CheckpointSchedule

EACH = list(range(1, 11))
NEVER = 1e9


@pytest.mark.parametrize(
    ("every_steps", "every_minutes", "step_seconds", "write_seconds", "expected"),
    [
        # Every so many steps: validations make no difference.
        (1, NEVER, 10, 0.1, EACH),
        (3, NEVER, 10, 0.1, [3, 6, 9]),
        (11, NEVER, 10, 0.1, []),
        # Also every so many minutes: here a step takes one, and so does writing.
        (4, 3, 60, 60, [3, 4, 7, 8]),
        # At validations, where writing takes a fiftieth of the time at most. The first
        # checkpoint is written to measure it.
        (None, NEVER, 10, 0.3, [2, 4, 6, 8, 10]),
        (None, NEVER, 10, 0.5, [2, 6, 10]),
        (None, NEVER, 10, 16, [2]),
        (None, 3, 60, 0.3, [2, 4, 6, 8, 10]),
        (None, 3, 60, 60, [2, 5, 8]),
    ],
)
def test_checkpoints_come_every_so_many_steps_or_minutes_or_where_they_are_cheap(
    monkeypatch: pytest.MonkeyPatch,
    every_steps: int | None,
    every_minutes: float,
    step_seconds: float,
    write_seconds: float,
    expected: list[int],
) -> None:
    """Of ten steps, by a simulated clock; every second one is validated.

    The time before the first step counts for nothing: compiling a model takes minutes.
    """
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    schedule = CheckpointSchedule(every_steps, every_minutes)
    now = 1000.0
    schedule.start()

    saved = []
    for step in range(1, 11):
        now += step_seconds
        if schedule.is_due(step, was_validated=step % 2 == 0):
            now += write_seconds
            schedule.written(write_seconds)
            saved.append(step)

    assert saved == expected
