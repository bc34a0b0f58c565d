"""What do several ranks save in memory, and what do they send, per step?

    python -m benchmarks.sharding

The memory is computed, not run, as in `benchmarks.memory`: PyTorch goes through two
steps with tensors that have no contents, on one of so many ranks whose messages
go nowhere. The bytes follow from the sizes of the network (`bytes_sent` in
benchmarks/scale/communication.py).
"""

from __future__ import annotations

import argparse
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.measure import RESULTS, Figures, report
from benchmarks.memory import GIB, computed_peak
from benchmarks.scale.communication import bytes_sent
from benchmarks.settings import optimizer_settings
from benchmarks.training import TASKS
from toygpt.model.gpt import GPT, GPTConfig
from toygpt.training.fused import FusedNextTokenLoss
from toygpt.training.loop import NextTokenLoss
from toygpt.training.optimizer import build_optimizer
from toygpt.training.sharding import shard

SEQUENCES = 16  # of a step, on all ranks together
RANKS = (2, 4, 8)


def peak_of_a_rank(config: GPTConfig, ranks: int, *, kernels: str = "plain") -> int:
    """Return the bytes that one of several ranks holds at its worst moment."""
    with get_context("spawn").Pool(1) as pool:
        return int(pool.apply(partial(_peak_with_fsdp, config, ranks, kernels)))


def _peak_with_fsdp(config: GPTConfig, ranks: int, kernels: str) -> int:
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    mesh = init_device_mesh("cpu", (ranks,))
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = GPT(config)
        inputs = torch.zeros(SEQUENCES // ranks, config.block_size, dtype=torch.long)
        module: nn.Module = NextTokenLoss(model)
        if kernels == "fused":
            module = FusedNextTokenLoss(model, torch.device("cpu"))
        network = shard(module, mesh, is_mixed=True)
        optimizer = build_optimizer(model, optimizer_settings())
        tracker = FSDPMemTracker(network, optimizer)
        tracker.track_inputs((inputs,))
        for _ in range(2):
            # In the first step, PyTorch finds out the shapes of results by whole
            # tensors without contents, which the tracker counts. It begins again here.
            with tracker:
                with torch.autocast("cpu", torch.bfloat16):
                    loss = network(inputs, inputs)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                tracker.reset_mod_stats()
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    return int(snapshot["Total"])


def main() -> None:
    """Compute, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=TASKS, default="large")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()

    config = TASKS[options.model].config
    sent_by = partial(bytes_sent, precision="bf16-mixed")
    peaks = {1: computed_peak(config, SEQUENCES)["all"]}
    peaks |= {ranks: peak_of_a_rank(config, ranks) for ranks in RANKS}
    fused = {ranks: peak_of_a_rank(config, ranks, kernels="fused") for ranks in RANKS}
    rows = [
        Figures(
            f"{ranks} ranks, fsdp" if ranks > 1 else "one device",
            {
                "memory of a rank": f"{peak / GIB:.1f} GiB",
                "of one device": f"{peak / peaks[1]:.2f}",
                "with fused kernels": f"{fused[ranks] / GIB:.1f} GiB"
                if ranks in fused
                else "",
                **{
                    f"sent per step, {strategy}": f"{sent / 1e9:.1f} GB"
                    for strategy in ("fsdp", "ddp")
                    for sent in [sent_by(strategy, config, ranks)]
                },
            },
        )
        for ranks, peak in peaks.items()
    ]
    report(
        "sharding",
        f"What do several ranks hold and send in a step of {options.model}?",
        rows,
        settings={
            "precision": "bf16-mixed",
            "kernels": "plain",
            "optimizer": "muon",
            "sequences_of_all_ranks": SEQUENCES,
            "parameters": config.num_parameters,
        },
        folder=options.out,
    )


if __name__ == "__main__":
    main()
