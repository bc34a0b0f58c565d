"""A training that has gone astray is noticed at once."""

import math

import pytest
import torch

from toygpt.pipeline.errors import InputError
from toygpt.training.divergence import DivergenceWatch, check_finite

BAD = [math.nan, math.inf, -math.inf]


def look(watch: DivergenceWatch, step: int, loss: float, norm: float) -> None:
    watch.look(step, torch.tensor(loss), torch.tensor(norm))


@pytest.mark.parametrize("value", BAD)
def test_a_loss_that_is_none_is_named_with_its_step_and_its_batch(value: float) -> None:
    watch = DivergenceWatch()
    look(watch, 1, 2.5, 1.0)

    with pytest.raises(
        InputError, match=rf"the loss is {value} in step 2, which learned from batch 1 "
    ):
        look(watch, 2, value, 1.0)


@pytest.mark.parametrize("value", BAD)
def test_a_gradient_that_is_none_is_noticed_though_the_loss_is_good(
    value: float,
) -> None:
    with pytest.raises(InputError, match=rf"length of the gradient is {value} in step"):
        look(DivergenceWatch(), 1, 2.5, value)


def test_a_large_loss_is_no_divergence() -> None:
    look(DivergenceWatch(), 1, 3e38, 3e38)


def test_what_was_looked_at_is_not_looked_at_again() -> None:
    watch = DivergenceWatch()
    watch.settle()
    with pytest.raises(InputError):
        look(watch, 1, math.nan, 1.0)

    watch.settle()


def test_the_message_says_what_to_change() -> None:
    with pytest.raises(InputError, match=r"Lower train\.learning_rate or train\.muon_"):
        check_finite(1_000, "loss", math.nan)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_asked_for_a_step_when_the_next_one_is_under_way() -> None:
    watch = DivergenceWatch()
    bad, good = torch.tensor(math.nan).cuda(), torch.tensor(1.0).cuda()
    watch.look(1, bad, good)

    with pytest.raises(InputError, match="in step 1,"):
        watch.look(2, good, good)
