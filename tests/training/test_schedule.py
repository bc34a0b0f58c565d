"""How the learning rate rises, stays, and falls."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toygpt.training.schedule import learning_rate_multiplier

SCHEDULE = {
    "tokens_per_step": 100,
    "max_tokens": 10_000,
    "warmup_tokens": 1_000,
    "decay_tokens": 4_000,
}


def multipliers(**changes: Any) -> list[float]:
    """Return the multiplier of every step of a training."""
    schedule = SCHEDULE | changes
    num_steps = -(-schedule["max_tokens"] // schedule["tokens_per_step"])
    return [
        learning_rate_multiplier(step * schedule["tokens_per_step"], **schedule)
        for step in range(num_steps)
    ]


@pytest.mark.parametrize(
    ("changes", "steps", "expected"),
    [
        ({}, slice(0, 10), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ({}, slice(9, 61), [1.0] * 52),
        ({}, slice(60, 100), [1 - place / 40 for place in range(40)]),
        ({"warmup_tokens": 0}, slice(0, 1), [1.0]),
        ({"warmup_tokens": 99}, slice(0, 1), [1.0]),  # shorter than a step
        ({"decay_tokens": 0}, slice(10, 100), [1.0] * 90),
        # Too short for its fall, training still reaches its highest rate.
        ({"max_tokens": 2_000}, slice(9, 20), [1, *(1 - n / 10 for n in range(10))]),
    ],
)
def test_the_learning_rate_rises_in_a_straight_line_stays_and_falls_in_another(
    changes: dict[str, int], steps: slice, expected: list[float]
) -> None:
    assert multipliers(**changes)[steps] == pytest.approx(expected)


def test_after_the_last_step_the_learning_rate_is_zero() -> None:
    """Also where the last step goes beyond max_tokens: it is never negative."""
    for tokens_seen in (10_000, 10_099, 20_000):
        assert learning_rate_multiplier(tokens_seen, **SCHEDULE) == 0.0


def test_another_batch_size_leaves_the_schedule_where_it_was() -> None:
    small, large = multipliers(), multipliers(tokens_per_step=200)

    assert small[1::2][:5] == pytest.approx(large[:5])  # the rise, at the step's end
    assert small[::2][5:] == pytest.approx(large[5:])  # the fall, at its start


@given(
    tokens_per_step=st.integers(1, 5_000),
    max_tokens=st.integers(1, 20_000),
    warmup=st.floats(0, 0.999),
    decay_tokens=st.integers(0, 30_000),
)
def test_each_step_of_any_schedule_learns_and_none_too_fast(
    tokens_per_step: int, max_tokens: int, warmup: float, decay_tokens: int
) -> None:
    tokens_per_step = max(tokens_per_step, max_tokens // 50)
    shares = multipliers(
        tokens_per_step=tokens_per_step,
        max_tokens=max_tokens,
        warmup_tokens=int(warmup * max_tokens),
        decay_tokens=decay_tokens,
    )

    assert all(0 < share <= 1 for share in shares)
    highest = shares.index(max(shares))
    assert shares[: highest + 1] == sorted(shares[: highest + 1])
    assert shares[highest:] == sorted(shares[highest:], reverse=True)
