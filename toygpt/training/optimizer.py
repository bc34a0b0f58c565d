"""What turns gradients into better weights: Muon for matrices, AdamW for the rest."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from toygpt.training.muon import FastMuon
from toygpt.training.settings import TrainSettings

# PyTorch's 0.95 looks back further than a short training has steps to spare.
MUON_MOMENTUM = 0.9
# Most tokens are in few batches: their embeddings need a long memory of how large their
# gradients are (docs/experiments.md).
BETAS_BESIDE_MUON = (0.9, 0.99)


class MuonWithAdamW(Optimizer):
    """Muon for the matrices inside the blocks, AdamW for the rest, as one optimizer.

    Muon makes all directions of a matrix's update equally long, so that rare but useful
    ones are learned, too (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon).
    It suits matrices that map vectors to vectors; embeddings, norms and biases learn by
    AdamW.

    Both work on the state and on the parameter groups of this optimizer. So `state` has
    what is remembered of each weight, as in every PyTorch optimizer.
    """

    def __init__(self, muon: Muon, adamw: AdamW) -> None:
        self.parts: dict[str, Optimizer] = {"muon": muon, "adamw": adamw}
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        first = 0
        for part in self.parts.values():
            end = first + len(part.param_groups)
            part.state = self.state
            part.param_groups = self.param_groups[first:end]
            first = end

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every weight once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts.values():
            part.step()
        return loss


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Return the learning rates in use: `adamw_learning_rate`, and Muon's if any.

    All parameter groups of a part have the same one.
    """
    parts: dict[str, Optimizer] = {"adamw": optimizer}
    if isinstance(optimizer, MuonWithAdamW):
        parts = optimizer.parts
    return {
        f"{name}_learning_rate": float(part.param_groups[0]["lr"])
        for name, part in parts.items()
    }


def build_optimizer(
    model: nn.Module, params: TrainSettings, *, muon: type[Muon] = FastMuon
) -> Optimizer:
    """Return the optimizer that `train.optimizer` names.

    Weight decay pulls on the matrices of the blocks alone: shrinking norms and biases
    gains nothing, and shrinking the embedding of a rare token forgets it.

    Args:
        model: Has the weights.
        params: The section `train`.
        muon: FastMuon, or PyTorch's own, for a comparison.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_block_matrix = name.startswith("blocks.") and parameter.ndim == 2
        (matrices if is_block_matrix else others).append(parameter)

    settings: dict[str, Any] = {"lr": params.learning_rate, "fused": True}
    if params.optimizer == "adamw":
        groups = [
            {"params": matrices, "weight_decay": params.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return AdamW(groups, betas=(0.9, 0.95), **settings)
    return MuonWithAdamW(
        muon(
            matrices,
            lr=params.muon_learning_rate,
            momentum=MUON_MOMENTUM,
            weight_decay=params.weight_decay,
        ),
        AdamW(others, weight_decay=0.0, betas=BETAS_BESIDE_MUON, **settings),
    )
