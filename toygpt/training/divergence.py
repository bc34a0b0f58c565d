"""Notice that a training has diverged, before it saves another checkpoint."""

import math

import torch
from torch import Tensor

from toygpt.pipeline.errors import InputError


class DivergenceError(InputError):
    """A loss or a norm that is not finite.

    All ranks meet it in the same step: their gradients are added up, and so is the
    validation loss.
    """


class LateReader:
    """Reads numbers from a device without waiting for it.

    A GPU works behind the program: to ask it for a number is to wait until it has
    caught up. So the numbers of one step are read when the next step is under way. The
    numbers of a CPU are read at once.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None

    def read(self, numbers: Tensor) -> list[float] | None:
        """Return these numbers; from a GPU, those of the call before, if any."""
        if not numbers.is_cuda:
            return numbers.tolist()
        on_host = numbers.to("cpu", non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        earlier = self.read_pending()
        self._pending = (on_host, event)
        return earlier

    def read_pending(self) -> list[float] | None:
        """Wait for the numbers that were not read yet, if any, and return them."""
        if self._pending is None:
            return None
        numbers, event = self._pending
        self._pending = None
        event.synchronize()
        return numbers.tolist()


class DivergenceWatch:
    """Checks the loss and the gradient norm of every step; on a GPU, one step late."""

    def __init__(self) -> None:
        self._reader = LateReader()
        self._last_step = 0

    def check(self, step: int, loss: Tensor, gradient_norm: Tensor) -> None:
        """Check a step; on a GPU, the one before.

        Raises:
            DivergenceError: A number is infinite or NaN.
        """
        numbers = torch.stack([loss.detach(), gradient_norm.detach()])
        read_step = step - 1 if numbers.is_cuda else step
        self._last_step = step
        self._check(read_step, self._reader.read(numbers))

    def check_pending(self) -> None:
        """Check the last step as well, and wait for the device if need be.

        Raises:
            DivergenceError: A number is infinite or NaN.
        """
        self._check(self._last_step, self._reader.read_pending())

    def _check(self, step: int, numbers: list[float] | None) -> None:
        if numbers is not None:
            loss, gradient_norm = numbers
            check_finite(step, "loss", loss)
            check_finite(step, "gradient norm", gradient_norm)


def check_finite(step: int, what: str, value: float) -> None:
    """Refuse to continue with a number that is infinite or NaN.

    Raises:
        DivergenceError: It is.
    """
    if not math.isfinite(value):
        raise DivergenceError(
            f"training diverged: the {what} is {value} in step {step:,}, which learned "
            f"from batch {step - 1:,} (counted from 0, see toygpt/data/batches.py); "
            f"nothing of that step is kept. Lower train.learning_rate or "
            f"train.muon_learning_rate in params.yaml"
        )
