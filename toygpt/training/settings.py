"""The settings that training reads: the sections `train` and `runtime` of params.yaml.

Any object with these attributes will do (that is what `Protocol` says), so that the
loop also runs where nothing but PyTorch and Lightning is installed. In the pipeline it
is `toygpt/pipeline/params.py` that reads and checks the values.
"""

from typing import Literal, Protocol


class TrainSettings(Protocol):
    """How long, how fast, and from how much at once the network learns."""

    max_tokens: int
    batch_size: int  # sequences per optimizer step
    optimizer: Literal["muon", "adamw"]
    muon_learning_rate: float
    learning_rate: float
    warmup_tokens: int
    decay_tokens: int
    weight_decay: float
    gradient_clip_norm: float
    validate_every_tokens: int
    validation_tokens: int


class RuntimeSettings(Protocol):
    """How to compute; the weights do not depend on it, except for rounding."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: int | Literal["auto"]
    num_nodes: int
    strategy: Literal["auto", "ddp", "fsdp"]
    compile: bool | Literal["auto"]
    micro_batch_size: int | Literal["auto"]  # sequences on a device at once, at most
    deterministic: bool
