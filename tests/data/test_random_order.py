"""A random order: every number once, and none where another would be expected."""

import doctest

import numpy as np
import pytest
from numpy.typing import NDArray

from toygpt.data import random_order
from toygpt.data.random_order import RandomOrder


def order_of(length: int, seed: int) -> NDArray[np.int64]:
    return RandomOrder(length, np.random.default_rng(seed)).at(np.arange(length))


def test_the_examples_are_true() -> None:
    assert doctest.testmod(random_order).failed == 0


def test_every_number_comes_once() -> None:
    """Squares, and the lengths just below and above them, are the corner cases."""
    lengths = [*range(1, 300), *(n * n + more for n in (40, 99) for more in (-1, 0, 1))]
    for length in [*lengths, 12_345]:
        for seed in (0, 1):
            assert np.array_equal(np.sort(order_of(length, seed)), np.arange(length))


def test_a_number_does_not_depend_on_what_else_is_asked_for() -> None:
    whole = order_of(1_000, seed=3)
    order = RandomOrder(1_000, np.random.default_rng(3))

    for places in (np.arange(5, 20), np.array([999, 0, 7, 7]), np.array([], np.int64)):
        assert np.array_equal(order.at(places), whole[places])


def test_a_large_corpus_takes_little_memory() -> None:
    """300 billion tokens in blocks of 512: as a list they would take 4.7 GB."""
    length = 300_000_000_000 // 512

    order = RandomOrder(length, np.random.default_rng(0))

    numbers = order.at(np.arange(length - 1_000, length))
    assert order.distances.nbytes < 2_000_000
    assert len({*numbers.tolist()}) == 1_000
    assert numbers.min() >= 0
    assert numbers.max() < length


def excess(counts: NDArray[np.int64]) -> float:
    """Return how unequal counts are: chi-square, in its standard deviations."""
    freedom = counts.size - 1
    chi_square = ((counts - counts.mean()) ** 2).sum() / counts.mean()
    return float((chi_square - freedom) / np.sqrt(2 * freedom))


def unevenness(length: int, num_orders: int) -> dict[str, float]:
    """Return how far some statistics of many orders are from those of random ones."""
    orders = np.array([order_of(length, seed) for seed in range(num_orders)])
    steps = np.diff(orders, axis=1) % length
    return {
        # Which number is at the first, a middle and the last place, ...
        **{
            f"place {place}": excess(np.bincount(orders[:, place], minlength=length))
            for place in (0, length // 2, length - 1)
        },
        # ... and how far neighbours are from each other.
        "neighbours": excess(np.bincount(steps.ravel(), minlength=length)[1:]),
        "every second": excess(
            np.bincount(
                ((orders[:, 2:] - orders[:, :-2]) % length).ravel(), minlength=length
            )[1:]
        ),
    }


def test_the_order_is_as_even_as_a_random_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer rounds the same statistics show that it is not."""
    found = unevenness(100, 2_000)
    monkeypatch.setattr(random_order, "NUM_ROUNDS", 4)
    with_fewer_rounds = unevenness(100, 2_000)

    assert max(map(abs, found.values())) < 4, found
    assert with_fewer_rounds["neighbours"] > 20
