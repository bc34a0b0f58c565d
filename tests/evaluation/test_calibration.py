"""Whether what the model finds probable comes true."""

import numpy as np
import pytest

from toygpt.evaluation.calibration import (
    NUM_BINS,
    calibration_bins,
    calibration_error,
)


def test_a_perfectly_calibrated_model_has_no_error() -> None:
    """What it is certain of counts, too."""
    choices = np.zeros((2, 101), dtype=np.int64)
    choices[:, 25] = 75, 25
    choices[:, 50] = 30, 30
    choices[:, 100] = 0, 40

    bins = calibration_bins(choices)

    assert sum(each.tokens for each in bins) == 200
    assert bins[-1] == (1.0, 1.0, 40)
    assert calibration_error(bins) == pytest.approx(0)


def test_a_model_that_is_too_sure_is_off_by_as_much() -> None:
    """90 % probable, and right in 6 of 10; or 20 % probable, and right in 5 of 10."""
    choices = np.zeros((2, 11), dtype=np.int64)
    choices[:, 9] = 40, 60
    choices[:, 2] = 150, 150

    bins = calibration_bins(choices)

    assert [each.probability for each in bins] == pytest.approx([0.2, 0.9])
    assert [each.came_true for each in bins] == [0.5, 0.6]
    assert calibration_error(bins) == pytest.approx(0.3)


def test_bins_hold_about_as_many_tokens_each() -> None:
    """Of a model that is seldom sure: most bins of equal width would be empty."""
    random = np.random.default_rng(0)
    steps = (10_000 * random.beta(1, 9, size=30_000)).round().astype(np.int64)
    choices = np.stack([np.bincount(steps, minlength=10_001)] * 2)

    bins = calibration_bins(choices)

    assert len(bins) == NUM_BINS
    assert [each.tokens for each in bins] == pytest.approx(
        [60_000 / NUM_BINS] * NUM_BINS, rel=0.05
    )
    assert np.all(np.diff([each.probability for each in bins]) > 0)


def test_a_model_that_always_says_the_same_has_one_bin() -> None:
    choices = np.zeros((2, 11), dtype=np.int64)
    choices[:, 0] = 99, 1

    assert calibration_bins(choices) == [(0.0, 0.01, 100)]
