"""How many bytes do the ranks send each other in a step of training?

Counted on the wire: the ranks run where they have a loopback device of their own, and
what it carried between two steps is what they sent, headers and all. The formulas are
of a ring, in which each of R ranks sends (R - 1) / R of what is gathered or reduced.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.settings import runtime_settings, train_settings
from benchmarks.training import TASKS
from tests.isolation import IN_ISOLATION, can_isolate
from toygpt.model.gpt import GPT, Block, GPTConfig

STEPS = 40
BYTES = 4  # of a weight, a gradient or a number of the optimizer
BYTES_IN_16_BITS = 2
# From so many channels on, Muon's matrices have owners under DDP as well
# (PAYS_FROM in toygpt/training/owners.py).
OWNERS_FROM = 512


def bytes_sent(
    strategy: str,
    config: GPTConfig,
    ranks: int,
    *,
    precision: str = "32-true",
    by_gloo: bool = False,
) -> float:
    """Return what each rank sends in a step of one micro-batch, with Muon.

    Args:
        strategy: As `runtime.strategy` in params.yaml.
        config: Of the network.
        ranks: How many share a batch.
        precision: As `train.precision`: 32-true or bf16-mixed.
        by_gloo: Whether gloo sends, as on CPUs. It knows no reduce-scatter, and adds up
            the gradients of all weights on every rank.
    """
    to_others = (ranks - 1) / ranks
    weights, matrices = config.num_parameters, matrix_weights(config)
    if strategy == "ddp":
        # Gradients are added up, and their sums passed round; so are updates.
        sent = 2 * BYTES * weights
        if config.embed_dim >= OWNERS_FROM:
            sent += BYTES_IN_16_BITS * matrices
        return to_others * sent
    # All weights before the forward pass, those of the blocks again before the backward
    # pass; gradients; the rows of each matrix to its owner, and of its update back.
    in_blocks = block_weights(config)
    bytes_of_weight = BYTES_IN_16_BITS if precision == "bf16-mixed" else BYTES
    sent = BYTES * (weights - in_blocks) + 2 * bytes_of_weight * in_blocks
    sent += BYTES * weights * (2 if by_gloo else 1)
    return to_others * (sent + (BYTES + BYTES_IN_16_BITS) * matrices / ranks)


def matrix_weights(config: GPTConfig) -> int:
    """Return how many weights Muon updates: the matrices of the blocks."""
    return 12 * config.num_layers * config.embed_dim**2


def block_weights(config: GPTConfig) -> int:
    """Return how many weights the layers have that FSDP gathers one by one."""
    with torch.device("meta"):
        blocks = [cast("Block", block) for block in GPT(config).blocks]
    layers = [layer for it in blocks for layer in (it.attention, it.feed_forward)]
    return sum(weight.numel() for each in layers for weight in each.parameters())


def measured_bytes(strategy: str, ranks: int, *, precision: str = "32-true") -> float:
    """Return what each rank sent in a step of `nano`.

    Raises:
        RuntimeError: This machine cannot make a network namespace.
    """
    if not can_isolate():
        raise RuntimeError("no network namespace can be made here: see unshare(1)")
    torchrun = ["torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone"]
    command = [sys.executable, "-m", *torchrun, "-m", __name__, strategy, precision]
    done = subprocess.run(
        [*IN_ISOLATION, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    return float(done.stdout.split()[-1]) / ranks


class Wire:
    """Notes what the loopback device has carried after each step."""

    def __init__(self) -> None:
        self.carried: dict[int, int] = {}

    def log_metrics(self, _: Mapping[str, float], *, step: int) -> None:
        """Note it; after the last step, which is validated, once more."""
        for line in Path("/proc/net/dev").read_text().splitlines():
            if line.strip().startswith("lo:"):
                self.carried.setdefault(step, int(line.split()[9]))  # bytes sent

    @property
    def per_step(self) -> float:
        """What all ranks together sent in a step, on average of the second half."""
        half = STEPS // 2
        return (self.carried[STEPS] - self.carried[half]) / (STEPS - half)


def main(strategy: str, precision: str) -> None:
    """Train as one of the ranks."""
    import numpy as np

    from toygpt.training.launch import launch
    from toygpt.training.loop import train
    from toygpt.training.report import Curves

    config: GPTConfig = TASKS["nano"].config
    ranks = int(os.environ["WORLD_SIZE"])
    params = train_settings(steps=STEPS, batch_size=ranks, block_size=config.block_size)
    runtime: Any = runtime_settings(
        accelerator="cpu", devices=ranks, strategy=strategy, micro_batch_size=1
    )
    text = np.random.default_rng(0).integers(config.vocab_size, size=100_000)
    wire = Wire()
    fabric = launch(runtime, precision=precision)  # type: ignore[arg-type]
    train(
        fabric,
        GPT(config),
        text.astype(np.uint16),
        text[:1000].astype(np.uint16),
        params=params,
        runtime=runtime,
        seed=0,
        curves=Curves(wire if fabric.is_global_zero else None),
    )
    if fabric.is_global_zero:
        print(wire.per_step)


if __name__ == "__main__":
    main(*sys.argv[1:])
