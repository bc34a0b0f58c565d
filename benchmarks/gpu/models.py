"""Part 4: generation and evaluation of `small`; training of `medium` and `large`."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks import evaluation, generation
from benchmarks.gpu.setup import Setup, failed
from benchmarks.gpu.sizes import Rates, measure_rates, sizes
from benchmarks.measure import Case, Timing
from benchmarks.training import stage
from toygpt.model.gpt import GPTConfig

# Tokens of a prompt, and tokens to generate after it.
PROMPT_TOKENS, NEW_TOKENS = 32, 256
NEW_TOKENS_OF_TRANSFORMERS = 64  # it takes most of the time
TEXTS_AT_ONCE = (1, 16)
EVALUATED_TOKENS = 65_536
WINDOWS_AT_ONCE = 32
ROUNDS = 3


def measure(setup: Setup) -> None:
    """Measure first what compiles nothing."""
    setup.attempt(
        {
            "generation and evaluation": partial(measure_inference, setup),
            "medium and large": partial(measure_training, setup),
        }
    )


def compare(
    setup: Setup, cases: Mapping[str, Case], amounts: Mapping[str, float]
) -> list[Timing]:
    """Compare cases that do different amounts of work in a round, side by side."""
    timings = setup.compare(cases, amount=1, rounds=ROUNDS)
    first = amounts[timings[0].name]
    return [
        replace(
            timing,
            per_second=timing.per_second * amounts[timing.name],
            slowest=timing.slowest * amounts[timing.name],
            fastest=timing.fastest * amounts[timing.name],
            ratio=timing.ratio * amounts[timing.name] / first,
        )
        for timing in timings
    ]


def measure_inference(setup: Setup) -> None:
    """Generate greedily, and evaluate, in 32 bits, beside transformers."""
    config = sizes(setup, "small").config
    with tempfile.TemporaryDirectory() as name:
        generation.write_checkpoint(config, Path(name))
        cases, amounts = inference_cases(config, Path(name), is_dry=setup.is_dry_run)
        timings = compare(setup, cases, amounts)
    setup.report(
        "inference",
        "How fast does `small` generate, and how fast is it evaluated?",
        timings,
        unit="tokens",
        prompt_tokens=PROMPT_TOKENS,
        new_tokens=NEW_TOKENS,
        new_tokens_of_transformers=NEW_TOKENS_OF_TRANSFORMERS,
        windows_at_once=WINDOWS_AT_ONCE,
        precision="32-true",
        ratio="of tokens per second",
        **failed(cases, timings),
    )


def inference_cases(
    config: GPTConfig, checkpoint: Path, *, is_dry: bool
) -> tuple[dict[str, Case], dict[str, float]]:
    """Return the cases, and how many tokens each generates or evaluates in a round."""
    prompt_tokens, new_tokens = PROMPT_TOKENS, NEW_TOKENS
    fewer_tokens = NEW_TOKENS_OF_TRANSFORMERS
    reading = evaluation.Task(config, EVALUATED_TOKENS, WINDOWS_AT_ONCE)
    if is_dry:
        prompt_tokens = new_tokens = fewer_tokens = config.block_size // 4
        reading = replace(reading, num_tokens=4 * config.block_size)
    cases: dict[str, Case] = {}
    amounts: dict[str, float] = {}
    for num_texts in TEXTS_AT_ONCE:
        generator = torch.Generator().manual_seed(1)
        shape = (num_texts, prompt_tokens)
        prompts = torch.randint(config.vocab_size, shape, generator=generator).tolist()
        name = f"transformers generates, {num_texts} at once"
        writing = generation.Task(checkpoint, prompts, fewer_tokens)
        writer = generation.transformers_writer
        cases[name] = partial(generation.repeatedly, writer, writing)
        amounts[name] = num_texts * fewer_tokens
        name = f"toyGPT generates, {num_texts} at once"
        writing = generation.Task(checkpoint, prompts, new_tokens)
        cases[name] = partial(generation.toygpt, writing, is_packed=True)
        amounts[name] = num_texts * new_tokens
    for name, case in {
        "forward pass alone": partial(evaluation.forward_alone, reading),
        "toyGPT evaluates": partial(evaluation.evaluation, reading),
    }.items():
        cases[name], amounts[name] = case, reading.num_tokens
    return cases, amounts


def measure_training(setup: Setup) -> None:
    """Train the larger models as the stage does, one after the other."""
    rates = measure_rates(setup)
    rows: list[Timing] = []
    setup.attempt(
        {
            name: partial(measure_model, setup, name, rates, rows)
            for name in ("medium", "large")
        }
    )


def measure_model(setup: Setup, name: str, rates: Rates, rows: list[Timing]) -> None:
    """Add a model's row to those before it, and report them."""
    steps = 1 if setup.is_dry_run else 4
    task = replace(sizes(setup, name), steps_per_round=steps)
    (timing,) = setup.compare(
        {name: partial(stage, task, optimizer="muon", compiled=not setup.is_dry_run)},
        amount=task.tokens_per_round,
        rounds=ROUNDS,
    )
    notes = {
        "sequences": task.batch_size,
        **rates.shares(task.config, timing.per_second),
    }
    first = rows[0] if rows else timing
    ratio = timing.per_second / first.per_second
    rows.append(replace(timing, ratio=ratio, notes=notes))
    setup.report(
        "models",
        "How fast does the stage `train` train `medium` and `large`?",
        rows,
        unit="tokens",
        optimizer="Muon",
        **rates.settings,
    )
