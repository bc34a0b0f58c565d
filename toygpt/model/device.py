"""Where the model computes."""

import platform
from pathlib import Path

import torch

from toygpt.pipeline.errors import InputError


def device_for(accelerator: str) -> torch.device:
    """Return the device that `runtime.accelerator` names; auto prefers a GPU.

    Raises:
        InputError: This machine has no such device.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    wanted = {"auto": available, "gpu": ["cuda", "mps"]}.get(accelerator, [accelerator])
    for device in available:
        if device in wanted:
            return torch.device(device)
    raise InputError(
        f"the accelerator {accelerator!r} is not available here, only "
        f"{', '.join(available)}: choose one of these or auto (runtime.accelerator in "
        f"params.yaml, or --accelerator)"
    )


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
