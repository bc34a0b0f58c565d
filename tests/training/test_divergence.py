"""A training that diverges is noticed at once."""

import math

import pytest
import torch

from toygpt.pipeline.errors import InputError
from toygpt.training.divergence import DivergenceWatch


def check(watch: DivergenceWatch, step: int, loss: float, norm: float) -> None:
    watch.check(step, torch.tensor(loss), torch.tensor(norm))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_named_with_its_step_and_its_batch(
    value: float,
) -> None:
    watch = DivergenceWatch()
    check(watch, 1, 2.5, 1.0)

    where = (
        rf"{value} in step 2, which learned from batch 1 .* Lower train\.learning_rate"
    )
    with pytest.raises(InputError, match=f"the loss is {where}"):
        check(watch, 2, value, 1.0)
    with pytest.raises(InputError, match=f"the gradient norm is {where}"):
        check(watch, 2, 2.5, value)


def test_a_large_loss_is_not_divergence() -> None:
    check(DivergenceWatch(), 1, 3e38, 3e38)


def test_a_step_is_checked_once() -> None:
    watch = DivergenceWatch()
    watch.check_pending()
    with pytest.raises(InputError):
        check(watch, 1, math.nan, 1.0)

    watch.check_pending()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_numbers_of_a_gpu_are_read_when_the_next_step_is_under_way() -> None:
    watch = DivergenceWatch()
    bad, good = torch.tensor(math.nan).cuda(), torch.tensor(1.0).cuda()
    watch.check(1, bad, good)

    with pytest.raises(InputError, match="in step 1,"):
        watch.check(2, good, good)
