"""Calibration: whether what the model finds 70 % probable comes 7 times in 10."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15


class Bin(NamedTuple):
    """Tokens whose first choices were about equally probable to the model."""

    probability: float  # that the model gave its first choices, on average
    came_true: float  # share of them that came
    tokens: int


def calibration_bins(choices: NDArray[np.int64]) -> list[Bin]:
    """Return bins of about as many tokens each, the least probable first choices first.

    A model that is seldom sure would leave most bins of equal width empty.

    Args:
        choices: Of the first choices, by their probability in steps: how many were
            wrong and right.
    """
    steps = np.linspace(0, 1, choices.shape[1])
    tokens = choices.sum(axis=0)
    # A step belongs to the bin of its middle token.
    places = (tokens.cumsum() - tokens / 2) * NUM_BINS / tokens.sum()
    sizes, probable, came_true = (
        np.bincount(places.astype(np.int64), values, NUM_BINS + 1)
        for values in (tokens, tokens * steps, choices[1])
    )
    return [
        Bin(float(probable[bin_] / size), float(came_true[bin_] / size), int(size))
        for bin_, size in enumerate(sizes)
        if size
    ]


def calibration_error(bins: list[Bin]) -> float:
    """Return how far probability and truth are apart, for the average token.

    The expected calibration error (Guo et al., 2017, "On Calibration of Modern Neural
    Networks", section 2).
    """
    differences = sum(abs(it.probability - it.came_true) * it.tokens for it in bins)
    return differences / sum(it.tokens for it in bins)
