"""How fast is training, beside what a user would pick instead?

    python -m benchmarks.training                    # nano, on what this machine has
    python -m benchmarks.training --model small

Same shapes, same batches of random tokens, same precision. A share of the machine's
rate of matrix products (MFU) counts, for each token, 6 operations for every weight that
a matrix product uses (the output layer's once, although it is tied to the embedding),
and 12 · layers · channels · block_size for attention, as if it were not causal
(Chowdhery et al., 2022, "PaLM", appendix B, https://arxiv.org/abs/2204.02311).
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from benchmarks.measure import RESULTS, Case, EndRound, Timing, compare, report
from benchmarks.settings import (
    optimizer_settings,
    runtime_settings,
    train_settings,
)
from toygpt.data.batches import Batch, TrainingBatches
from toygpt.data.token_files import TokenIds
from toygpt.model.gpt import GPT, GPTConfig, next_token_loss
from toygpt.pipeline.process import ENVIRONMENT, keep_freed_memory
from toygpt.training.fused import FusedNextTokenLoss
from toygpt.training.launch import launch
from toygpt.training.loop import train
from toygpt.training.optimizer import build_optimizer
from toygpt.training.plan import POINTS_PER_CURVE
from toygpt.training.precision import (
    resolve_attention,
    resolve_kernels,
    resolve_precision,
)
from toygpt.training.report import Curves


@dataclass(frozen=True)
class Task:
    """The model, the batches and the precision of every case."""

    config: GPTConfig
    batch_size: int  # sequences of block_size tokens
    steps_per_round: int
    precision: str

    @property
    def device(self) -> torch.device:
        """The device that trains."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def attention(self) -> str:
        """The attention that `train.attention: auto` stands for."""
        return resolve_attention(
            "auto",
            precision=self.precision,  # type: ignore[arg-type]
            accelerator="auto",
        )

    @property
    def kernels(self) -> str:
        """The kernels that `train.kernels: auto` stands for."""
        return resolve_kernels(
            "auto",
            precision=self.precision,  # type: ignore[arg-type]
            accelerator="auto",
        )

    @property
    def tokens_per_round(self) -> int:
        """Tokens of a round."""
        return self.steps_per_round * self.batch_size * self.config.block_size

    def tokens(self) -> TokenIds:
        """Return a text: speed does not depend on what is in it."""
        random = np.random.default_rng(0)
        num = 200 * self.batch_size * self.config.block_size
        return random.integers(self.config.vocab_size, size=num, dtype=np.uint16)

    def batches(self) -> TrainingBatches:
        """Return the batches of all steps."""
        return TrainingBatches(
            self.tokens(),
            block_size=self.config.block_size,
            batch_size=self.batch_size,
            seed=0,
        )


# The sizes of params.yaml: `nano` with its own vocabulary, the others with GPT-2's.
TASKS = {
    "nano": Task(GPTConfig(2048, 2, 4, 128, 256, 0.0), 16, 10, ""),
    "small": Task(GPTConfig(50257, 12, 8, 512, 768, 0.0), 64, 10, ""),
    "medium": Task(GPTConfig(50257, 16, 8, 512, 1024, 0.0), 48, 10, ""),
    "large": Task(GPTConfig(50257, 24, 16, 512, 2048, 0.0), 16, 10, ""),
}


def stage(
    task: Task,
    end_round: EndRound,
    *,
    optimizer: str,
    compiled: bool,
    micro_batch_size: int | Literal["auto"] | None = None,
) -> None:
    """Train as the stage `train` does, on Lightning Fabric.

    Args:
        task: What to train.
        end_round: To be called after each round.
        optimizer: As in params.yaml.
        compiled: Whether the network is compiled.
        micro_batch_size: As in params.yaml; a whole batch if not given.
    """
    keep_freed_memory()
    steps = POINTS_PER_CURVE * task.steps_per_round
    params = train_settings(
        steps=steps,
        batch_size=task.batch_size,
        block_size=task.config.block_size,
        optimizer=optimizer,
    )
    runtime = runtime_settings(
        compile=compiled, micro_batch_size=micro_batch_size or task.batch_size
    )
    # Metrics are reported once in a round.
    logger = SimpleNamespace(log_metrics=lambda metrics, *, step: end_round())
    train(
        launch(runtime, precision=task.precision),  # type: ignore[arg-type]
        GPT(task.config, attention=task.attention),
        task.tokens(),
        task.tokens(),
        params=params,
        runtime=runtime,
        seed=0,
        curves=Curves(logger),
        kernels=task.kernels,  # type: ignore[arg-type]
    )


def bare_loop(
    task: Task,
    end_round: EndRound,
    *,
    optimizer: str,
    compiled: bool,
    attention: str = "flash",
    kernels: str = "plain",
    keeps_memory: bool = False,
    matmul_precision: str = "high",
    network: Callable[[GPTConfig], nn.Module] | None = None,
) -> None:
    """Train a network in a loop of ten lines, as one would write it by hand.

    Args:
        task: What to train.
        end_round: To be called after each round.
        optimizer: As in params.yaml.
        compiled: Whether the network is compiled.
        attention: As in params.yaml.
        kernels: Of our GPT, as in params.yaml.
        keeps_memory: Whether memory is kept, as in the stage `train`.
        matmul_precision: Of products in 32 bits: "high" allows a GPU's TF32.
        network: Makes the network to train instead of our GPT.
    """
    torch.set_float32_matmul_precision(matmul_precision)
    if keeps_memory:
        keep_freed_memory()
    model = network(task.config) if network else GPT(task.config, attention=attention)
    model = model.to(task.device)
    step_taker = build_optimizer(model, optimizer_settings(optimizer=optimizer))

    def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return next_token_loss(model(inputs), targets)

    loss: Callable[..., torch.Tensor] = loss_of
    if kernels == "fused":
        assert isinstance(model, GPT), "only our network has fused forms"
        loss = FusedNextTokenLoss(model, task.device)
    if compiled:
        loss = torch.compile(loss, dynamic=False)
    batches = task.batches()
    is_mixed = task.precision == "bf16-mixed"
    step = 0
    while True:
        for _ in range(task.steps_per_round):
            inputs, targets = on_device(batches.batch(step), task.device)
            with torch.autocast(task.device.type, torch.bfloat16, enabled=is_mixed):
                value = loss(inputs, targets)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            step_taker.step()
            step_taker.zero_grad()
            step += 1
        end_round()


def litgpt_network(config: GPTConfig) -> nn.Module:
    """Return litgpt's GPT, as deep and as wide; `litgpt pretrain` would compile it.

    Its positions are rotary, its activation is GELU, and its output layer has weights
    of its own: as many products, but more numbers to learn.
    """
    import litgpt

    network: nn.Module = litgpt.GPT(
        litgpt.Config(
            vocab_size=config.vocab_size,
            padded_vocab_size=config.vocab_size,
            block_size=config.block_size,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            n_embd=config.embed_dim,
            intermediate_size=4 * config.embed_dim,
            parallel_residual=False,
        )
    )
    return network


def on_device(batch: Batch, device: torch.device) -> list[torch.Tensor]:
    """Send a batch to where it is needed, without waiting."""
    if device.type != "cuda":
        return list(batch)
    return [part.pin_memory().to(device, non_blocking=True) for part in batch]


def transformers_trainer(task: Task, end_round: EndRound, *, compiled: bool) -> None:
    """Train GPT-2 of the same shapes with the Trainer of transformers."""
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )
    from transformers.utils import logging

    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    config = task.config
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.block_size,
            n_embd=config.embed_dim,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
        )
    )
    batches = task.batches()

    class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
            step, row = divmod(number, task.batch_size)
            inputs, _ = batches.batch(step, rows=slice(row, row + 1))
            return {"input_ids": inputs[0], "labels": inputs[0]}

    class EndOfRound(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, arguments: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step % task.steps_per_round == 0:
                end_round()

    with tempfile.TemporaryDirectory() as nothing_is_saved_here:
        Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=nothing_is_saved_here,
                per_device_train_batch_size=task.batch_size,
                max_steps=1_000_000,
                bf16=task.precision == "bf16-mixed",
                use_cpu=task.device.type == "cpu",
                optim="adamw_torch_fused",
                torch_compile=compiled,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=Rows(),
            callbacks=[EndOfRound()],
        ).train()


def matrix_products(task: Task, end_round: EndRound, *, size: int) -> None:
    """Multiply square matrices, in the precision of the training."""
    is_mixed = task.precision == "bf16-mixed"
    dtype = torch.bfloat16 if is_mixed else torch.float32
    torch.set_float32_matmul_precision("high")
    left, right = (
        torch.randn(size, size, device=task.device).to(dtype) for _ in range(2)
    )
    product = torch.empty_like(left)
    while True:
        for _ in range(task.steps_per_round):
            torch.matmul(left, right, out=product)
        end_round()


def seconds_per_batch(task: Task) -> float:
    """Return how long it takes to cut a batch out of the text, and to send it."""
    batches = task.batches()
    on_device(batches.batch(0), task.device)
    began = time.perf_counter()
    for step in range(1, 101):
        on_device(batches.batch(step), task.device)
    return (time.perf_counter() - began) / 100


def operations_per_token(config: GPTConfig) -> int:
    """Return the floating-point operations of a training step, for each token."""
    weights = 12 * config.num_layers * config.embed_dim**2
    weights += config.vocab_size * config.embed_dim
    attention = 12 * config.num_layers * config.embed_dim * config.block_size
    return 6 * weights + attention


def main() -> None:
    """Measure, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=TASKS, default="nano")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, help="sequences (default: as listed)")
    parser.add_argument("--steps", type=int, help="of each round (default: as listed)")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--only", nargs="+", metavar="WORD", default=[""])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()

    task = TASKS[options.model]
    task = replace(
        task,
        precision=resolve_precision(options.precision, "auto"),
        batch_size=options.batch_size or task.batch_size,
        steps_per_round=options.steps or task.steps_per_round,
    )
    is_compiled = task.device.type == "cuda"  # as `runtime.compile: auto`
    size = 8192 if task.device.type == "cuda" else 1024
    cases: dict[str, Case] = {
        "transformers Trainer": partial(transformers_trainer, task, compiled=False),
        "transformers Trainer, compiled": partial(
            transformers_trainer, task, compiled=True
        ),
        "litgpt, plain loop, AdamW": partial(
            bare_loop, task, optimizer="adamw", compiled=False, network=litgpt_network
        ),
        "litgpt, plain loop, compiled, AdamW": partial(
            bare_loop, task, optimizer="adamw", compiled=True, network=litgpt_network
        ),
        "plain loop, AdamW": partial(
            bare_loop, task, optimizer="adamw", compiled=False
        ),
        "plain loop, compiled, AdamW": partial(
            bare_loop, task, optimizer="adamw", compiled=True
        ),
        "toyGPT stage without Lightning, AdamW": partial(
            bare_loop,
            task,
            optimizer="adamw",
            compiled=is_compiled,
            attention=task.attention,
            kernels=task.kernels,
            keeps_memory=True,
        ),
        "toyGPT stage, AdamW": partial(
            stage, task, optimizer="adamw", compiled=is_compiled
        ),
        "toyGPT stage, Muon": partial(
            stage, task, optimizer="muon", compiled=is_compiled
        ),
        "matrix products": partial(matrix_products, task, size=size),
    }
    cases = {
        name: case
        for name, case in cases.items()
        if any(word in name for word in [*options.only, "matrix products"])
    }
    timings = compare(
        cases,
        amount=task.tokens_per_round,
        rounds=options.rounds,
        environments={name: ENVIRONMENT for name in cases if "toyGPT" in name},
    )
    *trainings, products = timings
    ours = next((t for t in trainings if t.name.startswith("toyGPT stage")), None)
    waiting = seconds_per_batch(task) * task.steps_per_round
    operations = task.steps_per_round * 2 * size**3
    rate = products.per_second / task.tokens_per_round * operations
    report(
        f"training-{options.model}-{task.device.type}",
        f"How fast is training {options.model}?",
        [with_share(timing, task, rate) for timing in trainings],
        unit="tokens",
        settings={
            "precision": task.precision,
            "batch_size": task.batch_size,
            "parameters": GPT(task.config).num_parameters,
            "matrix_products_tflops": rate / 1e12,
            **(
                {"loading_share": waiting * ours.per_second / task.tokens_per_round}
                if ours
                else {}
            ),
            **task.config.__dict__,
        },
        folder=options.out,
    )


def with_share(timing: Timing, task: Task, rate: float) -> Timing:
    """Add the share of the machine's rate of matrix products."""
    share = timing.per_second * operations_per_token(task.config) / rate
    return replace(timing, notes={"MFU": f"{share:.0%}"})


if __name__ == "__main__":
    main()
