"""A training that diverges is noticed at once."""

import math

import pytest
import torch

from toygpt.pipeline.errors import InputError
from toygpt.training.divergence import DivergenceWatch, check_finite

BAD = [math.nan, math.inf, -math.inf]


def check(watch: DivergenceWatch, step: int, loss: float, norm: float) -> None:
    watch.check(step, torch.tensor(loss), torch.tensor(norm))


@pytest.mark.parametrize("value", BAD)
def test_a_loss_that_is_not_finite_is_named_with_its_step_and_its_batch(
    value: float,
) -> None:
    watch = DivergenceWatch()
    check(watch, 1, 2.5, 1.0)

    with pytest.raises(
        InputError, match=rf"the loss is {value} in step 2, which learned from batch 1 "
    ):
        check(watch, 2, value, 1.0)


@pytest.mark.parametrize("value", BAD)
def test_a_gradient_that_is_not_finite_is_noticed_though_the_loss_is_good(
    value: float,
) -> None:
    with pytest.raises(InputError, match=rf"gradient norm is {value} in step"):
        check(DivergenceWatch(), 1, 2.5, value)


def test_a_large_loss_is_not_divergence() -> None:
    check(DivergenceWatch(), 1, 3e38, 3e38)


def test_a_step_is_checked_once() -> None:
    watch = DivergenceWatch()
    watch.check_pending()
    with pytest.raises(InputError):
        check(watch, 1, math.nan, 1.0)

    watch.check_pending()


def test_the_message_says_what_to_change() -> None:
    with pytest.raises(InputError, match=r"Lower train\.learning_rate or train\.muon_"):
        check_finite(1_000, "loss", math.nan)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_numbers_of_a_gpu_are_read_when_the_next_step_is_under_way() -> None:
    watch = DivergenceWatch()
    bad, good = torch.tensor(math.nan).cuda(), torch.tensor(1.0).cuda()
    watch.check(1, bad, good)

    with pytest.raises(InputError, match="in step 1,"):
        watch.check(2, good, good)
