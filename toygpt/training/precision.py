"""What `auto` stands for on this machine: precision, attention, kernels, compiling."""

from typing import Literal

import torch
from torch import Tensor

from toygpt.model.device import device_for


def resolve_precision(
    precision: Literal["auto", "32-true", "bf16-mixed"], accelerator: str
) -> Literal["32-true", "bf16-mixed"]:
    """Return the precision that `train.precision` stands for on this machine.

    bf16 halves the memory traffic of matrix products and doubles their speed where
    the processor multiplies it natively; elsewhere it is emulated, and slower.
    """
    if precision != "auto":
        return precision
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    if accelerator in ("auto", "cpu") and not torch.backends.mps.is_available():
        abilities = torch.cpu.get_capabilities()
        if abilities.get("avx512_bf16") or abilities.get("amx_bf16"):
            return "bf16-mixed"
    return "32-true"


def resolve_attention(
    attention: Literal["auto", "flash", "from_scratch"],
    *,
    precision: Literal["32-true", "bf16-mixed"],
    accelerator: str,
) -> Literal["flash", "from_scratch"]:
    """Return the attention that `train.attention` stands for on this machine.

    Flash attention is faster where memory is slow beside the processor: on GPUs. On
    CPUs, the backward pass of PyTorch's kernel does not use the instructions for bf16:
    plain matrices train a seventh faster (docs/performance.md).
    """
    if attention != "auto":
        return attention
    if precision == "bf16-mixed" and device_for(accelerator).type == "cpu":
        return "from_scratch"
    return "flash"


def resolve_kernels(
    kernels: Literal["auto", "plain", "fused"],
    *,
    precision: Literal["32-true", "bf16-mixed"],
    accelerator: str,
) -> Literal["plain", "fused"]:
    """Return the form of the network that `train.kernels` stands for on this machine.

    The fused forms (fused.py) are made for 16 bits, on a GPU or a CPU.
    """
    if kernels != "auto":
        return kernels
    is_measured = device_for(accelerator).type in ("cuda", "cpu")
    return "fused" if precision == "bf16-mixed" and is_measured else "plain"


def dtype_of_products(x: Tensor) -> torch.dtype:
    """Return the type in which autocast would multiply a tensor by a matrix."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def should_compile(choice: bool | Literal["auto"], device: torch.device) -> bool:
    """Return whether compiling pays: it takes a minute, which a CPU never wins back."""
    return device.type == "cuda" if choice == "auto" else choice
