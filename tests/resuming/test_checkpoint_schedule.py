"""When a checkpoint is due."""

import time

import pytest

from toygpt.resuming.checkpoint_schedule import CheckpointSchedule


def steps_saved(
    monkeypatch: pytest.MonkeyPatch,
    schedule: CheckpointSchedule,
    *,
    step_seconds: float,
    write_seconds: float,
    validate_every: int = 10**9,
) -> list[int]:
    """Return after which of ten steps a checkpoint is due, by a simulated clock."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    schedule.start()
    saved = []
    for step in range(1, 11):
        now += step_seconds
        was_validated = step % validate_every == 0 or step == 10
        if schedule.is_due(step, was_validated=was_validated):
            now += write_seconds
            schedule.written(write_seconds)
            saved.append(step)
    return saved


@pytest.mark.parametrize(
    ("every", "expected"), [(1, list(range(1, 11))), (3, [3, 6, 9]), (11, [])]
)
def test_checkpoints_come_every_so_many_steps(
    monkeypatch: pytest.MonkeyPatch, every: int, expected: list[int]
) -> None:
    """Then validations, here every second step, make no difference."""
    schedule = CheckpointSchedule(every, 1e9)

    steps = steps_saved(
        monkeypatch, schedule, step_seconds=10, write_seconds=0.1, validate_every=2
    )

    assert steps == expected


@pytest.mark.parametrize(("every", "expected"), [(None, [3, 6, 9]), (4, [3, 4, 7, 8])])
def test_checkpoints_come_every_so_many_minutes(
    monkeypatch: pytest.MonkeyPatch, every: int | None, expected: list[int]
) -> None:
    """A step takes a minute, and so does writing a checkpoint."""
    schedule = CheckpointSchedule(every, 3)

    steps = steps_saved(monkeypatch, schedule, step_seconds=60, write_seconds=60)

    assert steps == expected


@pytest.mark.parametrize(
    ("step_seconds", "write_seconds", "minutes", "expected"),
    [
        (10, 0.3, 1e9, [2, 4, 6, 8, 10]),
        (10, 0.5, 1e9, [2, 6, 10]),
        (10, 16, 1e9, [2]),
        (60, 0.3, 3, [2, 4, 6, 8, 10]),
        (60, 60, 3, [2, 5, 8]),
    ],
)
def test_validations_save_a_checkpoint_where_it_takes_a_fiftieth_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
    step_seconds: float,
    write_seconds: float,
    minutes: float,
    expected: list[int],
) -> None:
    """Every second step is validated. The first checkpoint is written to measure it."""
    steps = steps_saved(
        monkeypatch,
        CheckpointSchedule(None, minutes),
        step_seconds=step_seconds,
        write_seconds=write_seconds,
        validate_every=2,
    )

    assert steps == expected


def test_the_minutes_count_from_the_start_of_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not from when the schedule was made: compiling a model takes minutes."""
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    schedule = CheckpointSchedule(None, 3)

    steps = steps_saved(monkeypatch, schedule, step_seconds=60, write_seconds=1)

    assert steps[0] == 3
