"""Where the model computes, outside of training."""

import torch


def device_for(accelerator: str) -> torch.device:
    """Return the device that `runtime.accelerator` names; auto takes a GPU if any."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
