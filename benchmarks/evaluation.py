"""How fast is a model evaluated, beside the forward pass alone?

    python -m benchmarks.evaluation                  # nano, on what this machine has
    python -m benchmarks.evaluation --model small --tokens 4096 --rounds 5

The forward pass gets the very same windows, ready made, and returns the logits of all
positions: no loading, no loss, no counting. Evaluation leaves out the logits of half of
each window, which is context alone.
"""

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import RESULTS, Case, EndRound, compare, report
from benchmarks.training import TASKS
from toygpt.data.token_files import TokenIds
from toygpt.evaluation.test_loss import evaluate
from toygpt.model.device import device_for
from toygpt.model.gpt import GPT, GPTConfig

OVERLAP_FRACTION = 0.5


@dataclass(frozen=True)
class Task:
    """The model and the text that every case reads."""

    config: GPTConfig
    num_tokens: int
    batch_size: int  # windows of block_size tokens at once

    def tokens(self) -> TokenIds:
        """Return a text: speed does not depend on what is in it."""
        random = np.random.default_rng(0)
        return random.integers(
            self.config.vocab_size, size=self.num_tokens, dtype=np.uint16
        )

    def model(self) -> GPT:
        """Return the model that reads it."""
        torch.manual_seed(0)
        return GPT(self.config).eval().to(device_for("auto"))


def evaluation(task: Task, end_round: EndRound) -> None:
    """Evaluate as the stage `evaluate` does."""
    model, tokens = task.model(), task.tokens()
    while True:
        evaluate(
            model,
            tokens,
            batch_size=task.batch_size,
            overlap_fraction=OVERLAP_FRACTION,
            end_of_text_id=0,
        )
        end_round()


def forward_alone(task: Task, end_round: EndRound) -> None:
    """Run the model on the same windows, and discard the logits."""
    model = task.model()
    block_size = task.config.block_size
    text = torch.from_numpy(task.tokens().astype(np.int64)).to(device_for("auto"))
    windows = text.unfold(0, block_size, block_size // 2).split(task.batch_size)
    with torch.inference_mode():
        while True:
            for inputs in windows:
                model(inputs)
            end_round()


def main() -> None:
    """Measure, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=TASKS, default="nano")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()

    config = TASKS[options.model].config
    task = Task(config, options.tokens, options.batch_size)
    cases: dict[str, Case] = {
        "forward pass alone": partial(forward_alone, task),
        "toyGPT evaluates": partial(evaluation, task),
    }
    report(
        f"evaluation-{options.model}-{device_for('auto').type}",
        f"How fast is {options.model} evaluated?",
        compare(cases, amount=options.tokens, rounds=options.rounds),
        unit="tokens evaluated",
        settings={
            "tokens": options.tokens,
            "windows_at_once": options.batch_size,
            "overlap_fraction": OVERLAP_FRACTION,
            "precision": "32-true",
            "parameters": GPT(config).num_parameters,
            **config.__dict__,
        },
        folder=options.out,
    )


if __name__ == "__main__":
    main()
