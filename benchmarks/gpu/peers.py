"""Part 3: the stage `train` itself, beside what else trains a network of these shapes.

Random tokens, the same batches, bf16. The first cases are measured side by side; each
of the others needs most of the GPU's memory for itself.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

from benchmarks.gpu.gpt2 import gpt2_network, transformers_network
from benchmarks.gpu.setup import Setup, failed
from benchmarks.gpu.sizes import Rates, measure_rates, sizes
from benchmarks.measure import Case, Timing
from benchmarks.training import Task, bare_loop, litgpt_network, stage

ROUNDS = 3
LARGE_STEP = 4  # times as many sequences


def measure(setup: Setup) -> None:
    """Measure the stage and the others, and report after each comparison."""
    task = replace(sizes(setup, "small"), steps_per_round=1 if setup.is_dry_run else 8)
    large_step = replace(
        task,
        batch_size=LARGE_STEP * task.batch_size,
        steps_per_round=max(1, task.steps_per_round // LARGE_STEP),
    )
    is_compiled = not setup.is_dry_run
    loop = partial(bare_loop, task, optimizer="adamw")
    train = partial(stage, compiled=is_compiled)
    together: dict[str, Case] = {
        "GPT-2 as in nanoGPT, compiled, AdamW": partial(
            loop, compiled=is_compiled, network=gpt2_network
        ),
        "toyGPT stage, AdamW": partial(train, task, optimizer="adamw"),
        "toyGPT stage, Muon": partial(train, task, optimizer="muon"),
    }
    alone: dict[str, Case] = {
        f"toyGPT stage, Muon, {LARGE_STEP} times as large a step": partial(
            train, large_step, optimizer="muon", micro_batch_size="auto"
        ),
    }
    if find_spec("litgpt"):
        alone["litgpt, compiled, AdamW"] = partial(
            loop, compiled=is_compiled, network=litgpt_network
        )
    # Last: docs/performance.md has what an H100 did.
    alone["GPT-2 of transformers, AdamW"] = partial(
        loop, compiled=False, network=transformers_network
    )
    rates = measure_rates(setup)
    timings: list[Timing] = []
    measured: dict[str, Case] = {}
    for cases in (together, *({name: case} for name, case in alone.items())):
        measured |= cases
        with suppress(RuntimeError):  # none of them has reached its last round
            timings += setup.compare(cases, amount=task.tokens_per_round, rounds=ROUNDS)
        if timings:
            show(setup, task, rates, measured, timings)


def show(
    setup: Setup,
    task: Task,
    rates: Rates,
    cases: dict[str, Case],
    timings: Sequence[Timing],
) -> None:
    """Report the timings so far; ratios are to the first."""
    rows = [
        replace(
            timing,
            ratio=timing.per_second / timings[0].per_second,
            notes=rates.shares(task.config, timing.per_second),
        )
        for timing in timings
    ]
    setup.report(
        "peers",
        "How fast does the stage `train` train `small`, beside others?",
        rows,
        unit="tokens",
        batch_size=task.batch_size,
        precision=task.precision,
        **rates.settings,
        **failed(cases, timings),
    )
