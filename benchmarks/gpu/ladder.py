"""Part 2: what each rung brings, alone and on top of those before it.

Each case is our network, compiled, in a process of its own. In a round, each runs some
forward and backward passes, then some whole steps with Muon, timed by the GPU's clock.
"""

import json
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.rungs import RUNGS, Trainer
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.sizes import (
    Rates,
    backend,
    measure_rates,
    median_milliseconds,
    milliseconds,
    sizes,
)
from benchmarks.measure import Case, EndRound, Figures
from benchmarks.training import Task, on_device

ROUNDS = 4
REPEATS = 5  # of the passes and of the steps in a round
WARM_UP = 3  # steps
# Cases that compile at the same time, and are all in the GPU's memory: 14 GiB each.
AT_ONCE = 4


class Row(NamedTuple):
    """A row of the ladder."""

    name: str
    rungs: Collection[str]
    task: Task


def measure(setup: Setup) -> None:
    """Measure attention alone, then the ladder."""
    setup.attempt(
        {
            "attention": partial(measure_attention, setup),
            "ladder": partial(measure_ladder, setup),
        }
    )


def measure_ladder(setup: Setup) -> None:
    """Measure the rows, some at a time; the table grows with them."""
    rates = measure_rates(setup)
    rows = ladder(sizes(setup, "small"))
    rest = iter(rows[:: len(RUNGS)] if setup.is_dry_run else rows)  # none, and all
    found: list[Figures] = []
    while rows := list(islice(rest, AT_ONCE)):
        found += measure_rows(setup, rows, rates)
        setup.report(
            "ladder",
            "What does each rung bring to a step of `small`?",
            found,
            batch_size=rows[0].task.batch_size,
            optimizer="Muon",
            compiled=f"{AT_ONCE} rows at the same time, with a common cache",
            **rates.settings,
        )


def ladder(task: Task) -> list[Row]:
    """Return the rows: rung upon rung, then each one alone, then larger batches."""
    sums = [RUNGS[:number] for number in range(len(RUNGS) + 1)]
    names = ["as it reads", *(f"+ {rung}" for rung in RUNGS)]
    twice = replace(task, batch_size=2 * task.batch_size)
    return [
        *(Row(name, rungs, task) for name, rungs in zip(names, sums, strict=True)),
        *(Row(f"{rung}, alone", [rung], task) for rung in RUNGS[1:]),
        Row("all, twice as many sequences", RUNGS, twice),
    ]


def measure_rows(setup: Setup, rows: list[Row], rates: Rates) -> list[Figures]:
    """Return the figures of some rows that are measured side by side."""
    with TemporaryDirectory() as name:
        files = {row.name: Path(name) / f"{number}" for number, row in enumerate(rows)}
        cases: dict[str, Case] = {
            row.name: partial(
                run_row, row.task, row.rungs, files[row.name], backend(setup)
            )
            for row in rows
        }
        with suppress(RuntimeError):  # none of them has reached its last round
            setup.compare(cases, amount=1, rounds=ROUNDS)
        return [figures_of(row, files[row.name], rates) for row in rows]


def run_row(
    task: Task,
    rungs: Collection[str],
    file: Path,
    backend: str,
    end_round: EndRound,
) -> None:
    """Run passes and steps in every round, and keep their times in a file."""
    trainer = Trainer(task.config, rungs, device=task.device, backend=backend)
    batches = task.batches()
    some = [on_device(batches.batch(number), task.device) for number in range(4)]
    places = iter(range(1_000_000))

    def passes() -> None:
        trainer.forward_and_backward(*some[next(places) % len(some)])

    def step() -> None:
        passes()
        trainer.update()

    began = time.perf_counter()
    milliseconds(step)
    found = {"first step s": time.perf_counter() - began}
    milliseconds(step, repeats=WARM_UP)
    if task.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    of_passes: list[float] = []
    of_steps: list[float] = []
    while True:
        end_round()
        of_passes.append(milliseconds(passes, repeats=REPEATS))
        trainer.optimizer.zero_grad()
        of_steps.append(milliseconds(step, repeats=REPEATS))
        found |= {"passes": median(of_passes), "steps": median(of_steps)}
        if task.device.type == "cuda":
            found["bytes"] = torch.cuda.max_memory_allocated()
        file.write_text(json.dumps(found), encoding="utf-8")


def figures_of(row: Row, file: Path, rates: Rates) -> Figures:
    """Return a row of the table."""
    if not file.exists():
        return Figures(row.name, {"whole step, ms": "failed: see the log"})
    found = json.loads(file.read_text(encoding="utf-8"))
    tokens = row.task.batch_size * row.task.config.block_size
    speed = 1000 * tokens / found["steps"]
    return Figures(
        row.name,
        {
            "forward and backward, ms": f"{found['passes']:.2f}",
            "whole step, ms": f"{found['steps']:.2f}",
            "tokens/s": f"{speed:,.0f}",
            **rates.shares(row.task.config, speed),
            "peak GiB": f"{found.get('bytes', 0) / 2**30:.1f}",
            "first step, s": f"{found['first step s']:.0f}",
        },
    )


def measure_attention(setup: Setup) -> None:
    """Time the kernels for attention that PyTorch offers, at our shapes."""
    rows = []
    for model in ("small", "medium", "large"):
        task = sizes(setup, model)
        config = task.config
        shape = (
            task.batch_size,
            config.block_size,
            config.num_heads,
            config.embed_dim // config.num_heads,
        )
        rows.append(Figures(f"{model}: {shape}", attention_times(shape, task.device)))
    setup.report(
        "attention",
        "How long does attention of one layer take, forward and backward, in ms?",
        rows,
        shape="sequences, tokens, heads, channels of a head",
        precision="bf16",
    )


def attention_times(
    shape: tuple[int, int, int, int], device: torch.device
) -> dict[str, str]:
    """Return the time of each kernel that can do it."""
    query, key, value = (
        torch.randn(shape, device=device, dtype=torch.bfloat16)
        .transpose(1, 2)
        .requires_grad_()
        for _ in range(3)
    )
    gradient = torch.randn_like(query)

    def both() -> tuple[Tensor, ...]:
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return torch.autograd.grad(mixed, (query, key, value), gradient)

    times = {}
    for kernel in (
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
    ):
        try:
            with sdpa_kernel(kernel):
                times[kernel.name.lower()] = f"{median_milliseconds(both):.3f}"
        except RuntimeError as error:  # it has no such kernel here
            print(f"{kernel.name}: {error}")
            times[kernel.name.lower()] = "-"
    return times
