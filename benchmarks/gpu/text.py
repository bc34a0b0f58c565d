"""Part 5: does a network with fast forms learn from a text as the plain one does?

Each curve starts from the same weights and reads the same batches. What rounding alone
does is measured, too: the plain network, with the sequences of each batch in another
order. First `small`, compiled, without any form and with all, as the stage trains it;
then `small` with two layers, with one form each.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.gpu.rungs import RUNGS, Trainer
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.sizes import backend, sizes, two_layers
from benchmarks.measure import Figures
from benchmarks.text import documents
from benchmarks.training import Task, on_device
from toygpt.data.batches import TrainingBatches
from toygpt.data.encoding import encode_with_tokenizers
from toygpt.data.inventory import Inventory
from toygpt.data.local_files import find_files, read_local_files
from toygpt.data.token_files import TokenIds
from toygpt.data.tokenizer import train_tokenizer
from toygpt.training.schedule import Schedule

STEPS = 200  # with two layers
STEPS_OF_SMALL = 100
POINTS = 4  # of a curve, each the mean of the steps since the last
BYTES = 8_000_000  # of text, at most
BYTES_TO_LEARN_WORDS = 2_000_000
ALL_BYTES = 257  # tokens of the smallest tokenizer: bytes, and the end of a text
SEQUENCES = 16  # of the network with two layers
# In nats per token. Rounding is chaotic: of its noise, one sample is a poor measure.
SMALLEST_NOISE = 0.01
TIMES_THE_NOISE = 3


def measure(setup: Setup) -> None:
    """Compare the curves."""
    task = sizes(setup, "small")
    tokens = read_text(setup, task.config.vocab_size)
    shallow = two_layers(setup)
    if not setup.is_dry_run:
        shallow = replace(shallow, batch_size=SEQUENCES)
    each: dict[str, Collection[str]] = {rung: [rung] for rung in RUNGS}
    setup.attempt(
        {
            "small": partial(
                measure_curves,
                setup,
                "curves-small",
                "`small`",
                task,
                tokens,
                {"all": RUNGS},
                steps=STEPS_OF_SMALL,
                backend=backend(setup),
                measures_noise=False,
            ),
            "two layers": partial(
                measure_curves,
                setup,
                "curves",
                "`small` with two layers",
                shallow,
                tokens,
                {**each, "all": RUNGS},
                steps=STEPS,
                backend=None,
                measures_noise=True,
            ),
        }
    )


def read_text(setup: Setup, vocab_size: int) -> TokenIds:
    """Return the token ids of the text, by a tokenizer trained on its start."""
    max_bytes = 20_000 if setup.is_dry_run else BYTES
    texts = list(first_texts(setup.text, max_bytes))
    sample: list[str] = []
    for text in texts:
        if sum(map(len, sample)) < BYTES_TO_LEARN_WORDS:
            sample.append(text[:BYTES_TO_LEARN_WORDS])
    tokenizer = train_tokenizer([sample], vocab_size=max(vocab_size, ALL_BYTES))
    ids = np.concatenate(list(encode_with_tokenizers(tokenizer, texts)))
    return np.minimum(ids, vocab_size - 1).astype(np.uint16)  # for the dry run


def first_texts(folder: Path | None, max_bytes: int) -> Iterator[str]:
    """Yield the first texts of a folder, or of Python's sources, up to that size."""
    if folder is None:
        yield from (document.text for document in documents(max_bytes))
        return
    for document in read_local_files(find_files(folder), Inventory()):
        yield bytes(document.content[:max_bytes]).decode(errors="replace")
        max_bytes -= len(document.content)
        if max_bytes <= 0:
            break


def measure_curves(
    setup: Setup,
    name: str,
    network: str,
    task: Task,
    tokens: TokenIds,
    cases: dict[str, Collection[str]],
    *,
    steps: int,
    backend: str | None,
    measures_noise: bool,
) -> None:
    """Report the curve of each case beside the plain one; the table grows with them."""
    steps = 8 if setup.is_dry_run else steps
    curve = partial(loss_curve, task, tokens, steps=steps, backend=backend)
    plain = curve([])
    curves = {"plain": plain}
    bound = SMALLEST_NOISE
    if measures_noise:
        other_order = curves["plain, another order"] = curve([], is_reversed=True)
        bound = max(bound, TIMES_THE_NOISE * abs(other_order[-1] - plain[-1]))
    for case, rungs in cases.items():
        curves[case] = curve(rungs)
        rows = []
        for row, losses in curves.items():
            marks = [f"step {(n + 1) * steps // POINTS}" for n in range(POINTS)]
            difference = losses[-1] - plain[-1]
            notes: dict[str, Any] = dict(
                zip(marks, [f"{loss:.4f}" for loss in losses], strict=True)
            )
            notes["difference"] = f"{difference:+.4f}"
            if abs(difference) <= bound:
                notes["verdict"] = "equal"
            else:
                notes["verdict"] = "differs: " + ("+" if difference > 0 else "-")
            rows.append(Figures(row, notes))
        setup.report(
            name,
            f"Does {network} learn as without the rungs? (nats per token)",
            rows,
            text="Python's sources" if setup.text is None else "the user's",
            batch_size=task.batch_size,
            bound=bound,
        )


def loss_curve(
    task: Task,
    tokens: TokenIds,
    rungs: Collection[str],
    *,
    steps: int,
    backend: str | None,
    is_reversed: bool = False,
) -> list[float]:
    """Train, and return the mean loss of each part of the steps."""
    trainer = Trainer(task.config, rungs, device=task.device, backend=backend)
    block_size = task.config.block_size
    batches = TrainingBatches(
        tokens, block_size=block_size, batch_size=task.batch_size, seed=0
    )
    tokens_per_step = task.batch_size * block_size
    params: Any = SimpleNamespace(
        max_tokens=steps * tokens_per_step,
        warmup_tokens=steps * tokens_per_step // 10,
        decay_tokens=steps * tokens_per_step // 2,
    )
    schedule = Schedule(trainer.optimizer, params, tokens_per_step=tokens_per_step)
    losses = []
    for step in range(steps):
        schedule.set_learning_rates(step)
        inputs, targets = on_device(batches.batch(step), task.device)
        if is_reversed:
            inputs, targets = inputs.flip(0), targets.flip(0)
        losses.append(trainer.forward_and_backward(inputs, targets))
        trainer.update()
    found = [loss.item() for loss in losses]
    size = steps // POINTS
    return [mean(found[place * size : (place + 1) * size]) for place in range(POINTS)]
