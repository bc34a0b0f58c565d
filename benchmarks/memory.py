"""How much memory does a step of training take?

    python -m benchmarks.memory

Computed, not run: PyTorch goes through a step with tensors that have a shape and a type
but no contents (`FakeTensorMode`) and keeps account of what is held (`MemTracker`). So
`large` needs no 80 GB to be looked at. In bf16-mixed, with flash attention, not
compiled: compiled, less is held. As a check, `nano` and `small` also run for real here.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from benchmarks.measure import RESULTS, Figures, report
from benchmarks.settings import optimizer_settings
from benchmarks.training import TASKS
from toygpt.model.gpt import GPT, GPTConfig, next_token_loss
from toygpt.pipeline.process import keep_freed_memory
from toygpt.training.optimizer import build_optimizer

GIB = 2**30
# A GPU's 80 GB, less what CUDA and its libraries take for themselves.
GPU_BYTES = 78 * GIB
# Sequences at once, of each size: the most that `large` has room for, and less.
MICRO_BATCHES = {"nano": [16], "small": [4, 64], "medium": [64], "large": [16, 32]}
ALSO_RUN = [("nano", 16), ("small", 4)]
# In the order of MemTracker's own names.
PARTS = {
    "Parameter": "weights",
    "Gradient": "gradients",
    "Optstate": "optimizer",
    "Activation": "activations",
    "Temp": "temporary",
}


def step(model: GPT, optimizer: torch.optim.Optimizer, inputs: torch.Tensor) -> None:
    """Take one step of training."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = next_token_loss(model(inputs), inputs)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def build(
    config: GPTConfig, sequences: int
) -> tuple[GPT, torch.optim.Optimizer, torch.Tensor]:
    """Return what a step needs."""
    model = GPT(config)
    inputs = torch.zeros(sequences, config.block_size, dtype=torch.long)
    return model, build_optimizer(model, optimizer_settings()), inputs


def computed_peak(config: GPTConfig, sequences: int) -> dict[str, int]:
    """Return the bytes held at the worst moment of the second step, by purpose."""
    with FakeTensorMode():
        model, optimizer, inputs = build(config, sequences)
        tracker = MemTracker()
        tracker.track_external(model, optimizer, inputs)
        with tracker:
            step(model, optimizer, inputs)  # fills the optimizer's memory
            tracker.reset_mod_stats()
            step(model, optimizer, inputs)
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    held = {getattr(part, "value", part): size for part, size in snapshot.items()}
    return {name: held[part] for part, name in PARTS.items()} | {"all": held["Total"]}


def measured_peak(config: GPTConfig, sequences: int) -> int:
    """Return the bytes by which three real steps make a process grow."""
    with get_context("spawn").Pool(1) as pool:
        return int(pool.apply(partial(_run, config, sequences)))


def _run(config: GPTConfig, sequences: int) -> int:
    keep_freed_memory()
    with _growth() as grown:
        everything = build(config, sequences)
        for _ in range(3):
            step(*everything)
    return grown[0]


@contextmanager
def _growth() -> Iterator[list[int]]:
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    grown: list[int] = []
    yield grown
    grown.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before)


def main() -> None:
    """Compute, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for name in options.models:
        config = TASKS[name].config
        for sequences in MICRO_BATCHES[name]:
            held = computed_peak(config, sequences)
            multiple = held["all"] / held["weights"]
            rows.append(
                Figures(
                    f"{name}, {sequences} sequences at once",
                    {part: f"{size / GIB:.2f} GiB" for part, size in held.items()}
                    | {
                        "multiple of the weights": f"{multiple:.1f}",
                        "fits into 80 GB": "yes" if held["all"] < GPU_BYTES else "no",
                        "measured": f"{measured_peak(config, sequences) / GIB:.2f} GiB"
                        if (name, sequences) in ALSO_RUN
                        else "",
                    },
                )
            )
            print(rows[-1], file=sys.stderr)
    report(
        "memory",
        "How much memory does a step of training take?",
        rows,
        settings={"precision": "bf16-mixed", "optimizer": "muon", "attention": "flash"},
        folder=options.out,
    )


if __name__ == "__main__":
    main()
