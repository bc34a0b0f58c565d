"""Sizes of the tasks, times of a GPU's work, and the rates that they are compared with.

The share of a rate (MFU) counts operations as benchmarks/training.py says: causal
attention in full, each weight that is in a product once forward and twice backward.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.setup import Setup, compare_here
from benchmarks.training import TASKS, Task, matrix_products, operations_per_token
from toygpt.model.device import device_name
from toygpt.model.gpt import GPTConfig
from toygpt.pipeline.errors import InputError

TINY = Task(GPTConfig(131, 1, 2, 16, 32, 0.0), 4, 1, "bf16-mixed")
# Operations per second in bf16 of the data sheets, dense.
DATA_SHEETS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
PRODUCT_SIZE = 8192  # rows and columns of the matrices


def sizes(setup: Setup, model: str) -> Task:
    """Return the task for a model of params.yaml; a tiny one in a dry run.

    Raises:
        InputError: There is no GPU, but no dry run is wanted.
    """
    if setup.is_dry_run:
        return TINY
    if not torch.cuda.is_available():
        raise InputError("PyTorch finds no GPU here; --dry-run works without")
    return replace(TASKS[model], precision="bf16-mixed")


def two_layers(setup: Setup) -> Task:
    """Return `small` with two layers: it compiles fast, but is as wide."""
    task = sizes(setup, "small")
    return replace(task, config=replace(task.config, num_layers=2))


def backend(setup: Setup) -> str:
    """Return the backend of torch.compile; in a dry run, one that compiles nothing."""
    return "eager" if setup.is_dry_run else "inductor"


def milliseconds(work: Callable[[], object], *, repeats: int = 1) -> float:
    """Return the mean time of some repeats; on a GPU, by its own clock.

    The GPU is not waited for between them, as it is not in training.
    """
    if torch.cuda.is_available():
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / repeats
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    return 1000 * (time.perf_counter() - began) / repeats


def median_milliseconds(work: Callable[[], object]) -> float:
    """Return the median time of a small piece of work, after some to warm up."""
    milliseconds(work, repeats=5)
    return median(milliseconds(work, repeats=5) for _ in range(5))


@dataclass(frozen=True)
class Rates:
    """Operations per second in bf16."""

    products: float  # of the card's own products of large matrices, measured
    data_sheet: float | None

    @property
    def settings(self) -> dict[str, Any]:
        """For the line below a table."""
        return {
            "matrix_products_tflops": self.products / 1e12,
            "MFU": f"of {self.data_sheet / 1e12:.0f} TFLOP/s, the data sheet's"
            if self.data_sheet
            else "unknown: no data sheet",
            "operations_per_token": "6 per weight, 12 x layers x channels x block size",
        }

    def shares(
        self, config: GPTConfig, tokens_per_second: float
    ) -> dict[str, float | str]:
        """Return the columns of a table."""
        operations = tokens_per_second * operations_per_token(config)
        columns: dict[str, float | str] = {
            "of products": f"{operations / self.products:.1%}"
        }
        if self.data_sheet:
            columns = {"MFU": f"{operations / self.data_sheet:.1%}", **columns}
        return columns


def measure_rates(setup: Setup) -> Rates:
    """Measure products of large matrices, and look the card up."""
    task = replace(sizes(setup, "small"), steps_per_round=10)
    size = 64 if setup.is_dry_run else PRODUCT_SIZE
    (timing,) = compare_here(
        {"products": lambda end_round: matrix_products(task, end_round, size=size)},
        amount=10 * 2 * size**3,
        rounds=5,
    )
    name = device_name(task.device)
    rates = [rate for card, rate in DATA_SHEETS.items() if card in name]
    return Rates(timing.per_second, rates[0] if rates else None)
