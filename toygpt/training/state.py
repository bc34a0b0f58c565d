"""The state of a training: the contents of its checkpoints."""

import math
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from toygpt.training.divergence import DivergenceWatch, check_finite
from toygpt.training.ranks import (
    mean_over_ranks,
    on_all_ranks,
    reported_by_rank_zero,
)
from toygpt.training.report import Curves
from toygpt.training.sharding import copy_rows, is_sharded, whole_of

if TYPE_CHECKING:
    from toygpt.resuming.tensor_folder import TensorFolder

# In the names of a checkpoint's tensors; the others are the optimizer's.
WEIGHTS = "weights"


class State:
    """Where a training is: steps, losses, weights, optimizer and curves."""

    def __init__(
        self, fabric: Fabric, model: nn.Module, optimizer: Optimizer, curves: Curves
    ) -> None:
        self.fabric = fabric
        self.model = model
        self.optimizer = optimizer
        self.curves = curves
        self.step = 0  # steps that are done
        self.train_loss = math.nan  # in the last report
        self.validation_loss = math.nan
        # Of this rank's micro-batches since the last report.
        self.sum_of_losses = torch.zeros((), device=fabric.device)
        self.num_losses = 0

    def add(self, losses: Iterable[Tensor]) -> None:
        """Count a step with the losses of its micro-batches."""
        self.step += 1
        for loss in losses:
            self.sum_of_losses = self.sum_of_losses + loss
            self.num_losses += 1

    def mean_loss(self) -> float:
        """Return the newest train loss: the mean since the last report, or reported."""
        if not self.num_losses:
            return self.train_loss
        own_mean = self.sum_of_losses / self.num_losses
        return mean_over_ranks(self.fabric, own_mean).item()

    def report_train_loss(self) -> float:
        """Return the train loss, and begin a new mean."""
        self.train_loss = self.mean_loss()
        self.sum_of_losses = torch.zeros_like(self.sum_of_losses)
        self.num_losses = 0
        return self.train_loss

    def checkpoint(self, watch: DivergenceWatch) -> dict[str, Any]:
        """Return the contents of a checkpoint, on all ranks.

        Raises:
            DivergenceError: Training has diverged, and must not be saved. A step may
                spoil the weights although its loss, computed before, was good.
        """
        watch.check_pending()
        norm = whole_of(get_total_norm(self.model.parameters()))
        check_finite(self.step, "norm of the weights", norm.item())
        return {
            "tensors": self._tensors(),
            "curves": self.curves.state_dict(),
            "step": self.step,
            "train_loss": self.train_loss,
            "validation_loss": self.validation_loss,
            "sum_of_losses": mean_over_ranks(self.fabric, self.sum_of_losses),
            "num_losses": self.num_losses,
        }

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Continue from a checkpoint, on all ranks at the same time."""
        self._load_tensors(checkpoint["tensors"])
        self.curves.load_state_dict(checkpoint["curves"])
        self.step = checkpoint["step"]
        self.train_loss = checkpoint["train_loss"]
        self.validation_loss = checkpoint["validation_loss"]
        self.sum_of_losses = checkpoint["sum_of_losses"].to(self.fabric.device)
        self.num_losses = checkpoint["num_losses"]

    def _tensors(self) -> dict[str, Tensor]:
        """Return the weights, and what the optimizer remembers of each, by name.

        Everything else that an optimizer has follows from the parameters and the step.
        """
        tensors: dict[str, Tensor] = {}
        for name, weight in self.model.named_parameters():
            tensors[f"{WEIGHTS}.{name}"] = weight.detach()
            remembered = self.optimizer.state.get(weight, {})
            assert remembered or not self.step, f"nothing is remembered of {name}"
            for key, value in remembered.items():
                tensors[f"{key}.{name}"] = value
        return tensors

    @torch.no_grad()
    def _load_tensors(self, saved: "dict[str, Tensor] | TensorFolder") -> None:
        weights = dict(self.model.named_parameters())
        shapes = saved if isinstance(saved, dict) else saved.shapes
        for full_name, tensor in shapes.items():
            key, _, name = full_name.partition(".")
            if key == WEIGHTS:
                continue
            # A new optimizer remembers nothing: it gets a place for the tensor.
            weight = weights[name]
            self.optimizer.state[weight][key] = (
                torch.zeros_like(weight, dtype=tensor.dtype)
                if tensor.shape == weight.shape
                else torch.zeros_like(tensor, device=weight.device)
            )
        targets = self._tensors()
        if isinstance(saved, dict):
            for name, target in targets.items():
                copy_rows(target, saved[name])
        elif is_sharded(self.fabric):
            with reported_by_rank_zero(self.fabric):
                saved.read_into(targets, together=True)
        else:
            read = partial(saved.read_into, targets, together=False)
            on_all_ranks(self.fabric, read)
