"""Pack the large matrices: the same network, faster on a processor.

A processor multiplies faster if a matrix lies in memory in the order in which the
kernel reads it. The last rung of the ladder that begins in simple.py, behind one
switch: `pack(model)` returns the same GPT with other linear layers. Training does
without. A GPU has no such order: there `pack` merges small products, as merged.py
says. docs/decisions/generation.md has the figures.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from toygpt.generation.merged import merge
from toygpt.model.gpt import GPT

# A call of the packed kernel takes some 15 µs more to start than PyTorch's own: for a
# smaller matrix that is more than it saves.
MIN_WEIGHTS = 2**19


def pack(model: GPT) -> GPT:
    """Return the model for inference: its large layers packed, or merged on a GPU.

    It computes what the model computes, up to rounding. The weights of all other layers
    are shared: pack again after training, or after moving the model.
    """
    # `deepcopy` takes what its memo holds for copied: the modules are copied, the
    # tensors are not.
    memo = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    packed = copy.deepcopy(model, memo).eval()
    if can_pack(model.device):
        for module in list(packed.modules()):
            for name, layer in module.named_children():
                if isinstance(layer, nn.Linear) and is_worth_packing(layer):
                    setattr(module, name, PackedLinear(layer))
    elif model.device.type == "cuda":
        merge(packed)
    return packed


def can_pack(device: torch.device) -> bool:
    """Return whether PyTorch has kernels for packed matrices there: oneDNN's, on x86.

    PyTorch's compiler uses these kernels for inputs of any length.
    """
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    )


def is_worth_packing(layer: nn.Linear) -> bool:
    """Return whether a layer is large, and in 32 bits, which the kernels take."""
    weight = layer.weight
    return weight.dtype == torch.float32 and weight.numel() >= MIN_WEIGHTS


class PackedLinear(nn.Module):
    """A linear layer whose matrix is packed; for inference alone."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        # Not documented by PyTorch, hence used here alone, and tested.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        self.bias = layer.bias.detach()

    def forward(
        self, x: Float[Tensor, "*batch inputs"]
    ) -> Float[Tensor, "*batch outputs"]:
        """Return x Wᵀ + b."""
        return torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, "none", [], ""
        )
