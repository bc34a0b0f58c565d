"""Part 4: generation and evaluation of `small`; training of `medium` and `large`."""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks import evaluation, generation
from benchmarks.gpu.setup import Setup, failed
from benchmarks.gpu.sizes import measure_rates, sizes
from benchmarks.measure import Case
from benchmarks.training import stage

# Tokens of a prompt, and tokens to generate after it.
PROMPT_TOKENS, NEW_TOKENS = 32, 256
EVALUATED_TOKENS = 262_144
WINDOWS_AT_ONCE = 32


def measure(setup: Setup) -> None:
    """Measure what takes least first."""
    setup.attempt(
        {
            "one text": partial(measure_generation, setup, 1),
            "sixteen texts": partial(measure_generation, setup, 16),
            "evaluation": partial(measure_evaluation, setup),
            "medium and large": partial(measure_training, setup),
        }
    )


def measure_generation(setup: Setup, num_texts: int) -> None:
    """Generate greedily in 32 bits, beside transformers on the same checkpoint."""
    config = sizes(setup, "small").config
    prompt_tokens, new_tokens = PROMPT_TOKENS, NEW_TOKENS
    if setup.is_dry_run:
        prompt_tokens = new_tokens = config.block_size // 4
    with tempfile.TemporaryDirectory() as folder:
        generation.write_checkpoint(config, Path(folder))
        generator = torch.Generator().manual_seed(1)
        shape = (num_texts, prompt_tokens)
        prompts = torch.randint(config.vocab_size, shape, generator=generator).tolist()
        task = generation.Task(Path(folder), prompts, new_tokens)
        writer = generation.transformers_writer
        cases: dict[str, Case] = {
            "transformers generate": partial(generation.repeatedly, writer, task),
            "toyGPT": partial(generation.toygpt, task, is_packed=False),
        }
        timings = setup.compare(cases, amount=num_texts * new_tokens, rounds=5)
    setup.report(
        f"generation-{num_texts}",
        f"How fast does `small` generate, {num_texts} at once?",
        timings,
        unit="new tokens",
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        precision="32-true",
        **failed(cases, timings),
    )


def measure_evaluation(setup: Setup) -> None:
    """Evaluate a text, beside the forward pass alone."""
    config = sizes(setup, "small").config
    task = evaluation.Task(config, EVALUATED_TOKENS, WINDOWS_AT_ONCE)
    if setup.is_dry_run:
        task = replace(task, num_tokens=4 * config.block_size, batch_size=2)
    cases: dict[str, Case] = {
        "forward pass alone": partial(evaluation.forward_alone, task),
        "toyGPT evaluates": partial(evaluation.evaluation, task),
    }
    timings = setup.compare(cases, amount=task.num_tokens, rounds=3)
    setup.report(
        "evaluation",
        "How fast is `small` evaluated?",
        timings,
        unit="tokens",
        windows_at_once=task.batch_size,
        precision="32-true",
        **failed(cases, timings),
    )


def measure_training(setup: Setup) -> None:
    """Train the larger models as the stage does; both compile at the same time."""
    rates = measure_rates(setup)
    tasks = {
        name: replace(sizes(setup, name), steps_per_round=1 if setup.is_dry_run else 4)
        for name in ("medium", "large")
    }
    cases: dict[str, Case] = {
        name: partial(stage, task, optimizer="muon", compiled=not setup.is_dry_run)
        for name, task in tasks.items()
    }
    # A round counts once: each model has its own number of tokens.
    timings = setup.compare(cases, amount=1, rounds=3)
    rows = []
    for timing in timings:
        task = tasks[timing.name]
        amount = task.tokens_per_round
        speed = amount * timing.per_second
        rows.append(
            replace(
                timing,
                per_second=speed,
                slowest=amount * timing.slowest,
                fastest=amount * timing.fastest,
                notes={
                    "sequences": task.batch_size,
                    **rates.shares(task.config, speed),
                },
            )
        )
    setup.report(
        "models",
        "How fast does the stage `train` train `medium` and `large`?",
        rows,
        unit="tokens",
        optimizer="Muon",
        ratio="of rounds, whose sizes differ",
        **rates.settings,
        **failed(cases, timings),
    )
