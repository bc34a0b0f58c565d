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


def test_the_learning_rate_rises_in_a_straight_line() -> None:
    rise = multipliers()[:10]

    assert rise == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])


def test_the_learning_rate_stays_at_its_highest_between_rise_and_fall() -> None:
    assert multipliers()[9:61] == [1.0] * 52


def test_the_learning_rate_falls_in_a_straight_line() -> None:
    fall = multipliers()[60:]

    assert fall == pytest.approx([1 - place / 40 for place in range(40)])


def test_the_last_step_is_almost_at_zero() -> None:
    assert multipliers()[-1] == pytest.approx(100 / 4_000)


def test_after_the_last_step_the_learning_rate_is_zero() -> None:
    """Also where the last step goes beyond max_tokens: it is never negative."""
    for tokens_seen in (10_000, 10_099, 20_000):
        assert learning_rate_multiplier(tokens_seen, **SCHEDULE) == 0.0


def test_without_a_rise_the_first_step_is_at_the_highest() -> None:
    assert multipliers(warmup_tokens=0)[0] == 1.0


def test_a_rise_shorter_than_a_step_is_left_out() -> None:
    assert multipliers(warmup_tokens=99)[0] == 1.0


def test_without_a_fall_the_last_step_is_at_the_highest() -> None:
    assert multipliers(decay_tokens=0)[10:] == [1.0] * 90


def test_a_training_too_short_for_its_fall_falls_right_after_the_rise() -> None:
    """It still reaches its highest rate, and still ends close to zero."""
    short = multipliers(max_tokens=2_000)

    assert short[9] == 1.0
    assert short[10:] == pytest.approx([1 - place / 10 for place in range(10)])


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
