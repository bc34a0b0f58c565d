"""Notice a training that has gone astray before any of it is kept."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toygpt.pipeline.errors import InputError


class DivergenceWatch:
    """Looks at the loss and the gradient of every step, and makes no GPU wait for it.

    A GPU works behind the program that gives it work. To ask it for a number is to wait
    until it has caught up; so it is asked for the number of a step when the next one is
    under way.
    """

    def __init__(self) -> None:
        self._not_seen_yet: tuple[int, Tensor, torch.cuda.Event | None] | None = None

    def look(self, step: int, loss: Tensor, gradient_norm: Tensor) -> None:
        """Look at a step: on a GPU at the one before.

        Raises:
            InputError: A number is infinite or none.
        """
        numbers = torch.stack([loss.detach(), gradient_norm.detach()])
        on_host, event = numbers.to("cpu", non_blocking=True), None
        if numbers.is_cuda:
            event = torch.cuda.Event()
            event.record()
            self.settle()
        self._not_seen_yet = (step, on_host, event)
        if event is None:
            self.settle()

    def settle(self) -> None:
        """Look at whatever has not been looked at yet.

        Raises:
            InputError: A number is infinite or none.
        """
        if self._not_seen_yet is None:
            return
        step, numbers, event = self._not_seen_yet
        self._not_seen_yet = None
        if event is not None:
            event.synchronize()
        loss, gradient_norm = numbers.tolist()
        check_finite(step, "loss", loss)
        check_finite(step, "length of the gradient", gradient_norm)


def check_finite(step: int, what: str, value: float) -> None:
    """Refuse to go on with a number that is none.

    Raises:
        InputError: It is infinite, or none.
    """
    if not math.isfinite(value):
        raise InputError(
            f"training diverged: the {what} is {value} in step {step:,}, which learned "
            f"from batch {step - 1:,} (counted from 0, see toygpt/data/batches.py); "
            f"nothing of that step is kept. Lower train.learning_rate or "
            f"train.muon_learning_rate in params.yaml"
        )
