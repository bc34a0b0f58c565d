"""The training loop, every step written out, on the devices that this machine has.

A small network learns a simple text in twenty steps:

>>> import numpy as np
>>> from toygpt.model.gpt import GPTConfig
>>> text = np.tile(np.arange(7, dtype=np.uint16), 100)  # 0 1 2 3 4 5 6 0 1 2 ...
>>> batches = TrainingBatches(text, block_size=8, batch_size=4, seed=0)
>>> _ = torch.manual_seed(0)
>>> model = GPT(GPTConfig(7, 1, num_heads=1, block_size=8, embed_dim=16, dropout=0.0))
>>> fabric = Fabric(accelerator="cpu", devices=1)
>>> network = fabric.setup_module(NextTokenLoss(model))
>>> optimizer = fabric.setup_optimizers(torch.optim.AdamW(model.parameters(), lr=0.05))
>>> for step in range(20):
...     micro_batch = MicroBatch(batches.sequences(step), dropout_seed=step)
...     losses, _ = train_step(fabric, network, optimizer, [micro_batch], max_norm=1.0)
...     if step in (0, 19):
...         print(f"{losses[0].item():.1f} nats per token")
2.0 nats per token
0.0 nats per token

`train` takes such steps, too. Around each it sets the learning rate, reports,
validates, and saves checkpoints. On several devices, each has a process of its own,
called a rank, with its share of every batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from toygpt.data.batches import SpreadBatches, TrainingBatches, cut_on_device
from toygpt.data.token_files import Tokens
from toygpt.model.gpt import GPT, next_token_loss
from toygpt.training.checkpointing import Checkpointing
from toygpt.training.divergence import DivergenceError, DivergenceWatch, check_finite
from toygpt.training.fused import FusedNextTokenLoss, unfuse
from toygpt.training.launch import explain_out_of_memory
from toygpt.training.memory import max_micro_batch_size
from toygpt.training.optimizer import build_optimizer, learning_rates
from toygpt.training.plan import (
    MicroBatch,
    cut_into_micro_batches,
    plan_training,
    share_validation,
)
from toygpt.training.precision import should_compile
from toygpt.training.progress import Progress
from toygpt.training.ranks import on_rank_zero, reported_by_rank_zero, sum_over_ranks
from toygpt.training.report import Curves, Speedometer
from toygpt.training.schedule import Schedule
from toygpt.training.settings import RuntimeSettings, TrainSettings
from toygpt.training.sharding import (
    drop_rows_of_others,
    is_sharded,
    to_host,
    whole_of,
)
from toygpt.training.state import State


class NextTokenLoss(nn.Module):
    """The network and its loss as one module, for Fabric and for torch.compile."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a micro-batch, in nats per token."""
        return next_token_loss(self.model(inputs), targets)


def train_step(
    fabric: Fabric,
    network: Any,
    optimizer: Optimizer,
    micro_batches: Sequence[MicroBatch],
    *,
    max_norm: float,
) -> tuple[list[Tensor], Tensor]:
    """Take one step: backward through all micro-batches, clip, update the weights.

    Args:
        fabric: Where it is computed.
        network: Returns the loss of a micro-batch; a module that Fabric has set up.
        optimizer: Of the network's weights.
        micro_batches: This rank's share of the batch; their gradients add up.
        max_norm: Longer gradients are shortened to this norm.

    Returns:
        The losses of the micro-batches, and the gradient norm before it was clipped.
        They stay on the device: to look at them is to wait for it.
    """
    losses = []
    for number, (sequences, dropout_seed) in enumerate(micro_batches, start=1):
        torch.manual_seed(dropout_seed)
        # The ranks add up their gradients: once, or if these are split, each time.
        adds_up = number == len(micro_batches) or is_sharded(fabric)
        with fabric.no_backward_sync(network, enabled=not adds_up):
            inputs, targets = cut_on_device(sequences, fabric.device)
            loss = network(inputs, targets)
            fabric.backward(loss / len(micro_batches))
        losses.append(loss.detach())

    # Not Fabric's clipping: it sums in another order, so that the last digits differ.
    gradient_norm = whole_of(clip_grad_norm_(network.parameters(), max_norm))
    optimizer.step()
    optimizer.zero_grad()
    return losses, gradient_norm


@dataclass(frozen=True)
class Outcome:
    """What a training has reached."""

    steps: int
    tokens: int
    train_loss: float  # nats per token, mean since the last point of the curve
    validation_loss: float  # nats per token


def train(
    fabric: Fabric,
    model: GPT,
    train_tokens: Tokens,
    validation_tokens: Tokens,
    *,
    params: TrainSettings,
    runtime: RuntimeSettings,
    seed: int,
    curves: Curves,
    kernels: Literal["plain", "fused"] = "plain",
    checkpoints: Checkpointing | None = None,
) -> Outcome:
    """Train the model in place, from its newest checkpoint if there is one.

    Args:
        fabric: As `launch` returns it.
        model: The network; it ends on the CPU, of rank zero if it was split.
        train_tokens: The text to learn from.
        validation_tokens: The text that is held out to watch training.
        params: What determines the weights.
        runtime: How to compute them.
        seed: Of the order of the text, and of dropout.
        curves: Get a point at each report and at each validation.
        kernels: The network as it is written to be read, or its faster forms.
        checkpoints: Without them, a training that is interrupted starts over.

    Raises:
        InputError: The ranks cannot share a batch, a device is out of memory, or
            training diverged.
        SystemExit: Training diverged, on ranks above zero.
        Stopped: A signal came; the steps so far are saved.
    """
    block_size = model.config.block_size
    is_compiled = should_compile(runtime.compile, fabric.device)
    most = max_micro_batch_size(
        runtime.micro_batch_size,
        model,
        fabric,
        is_compiled=is_compiled,
        kernels=kernels,
    )
    make_plan = partial(
        plan_training,
        params,
        block_size,
        num_ranks=fabric.world_size,
        max_micro_batch_size=most,
    )
    on_rank_zero(fabric, make_plan)  # reports an error once; the others just end
    plan = make_plan()
    if fabric.is_global_zero and fabric.device.type == "cuda":
        print(f"micro-batches of {plan.micro_batch_size} sequences", flush=True)
    batches = TrainingBatches(
        train_tokens, block_size=block_size, batch_size=params.batch_size, seed=seed
    )
    held_out = SpreadBatches(
        validation_tokens,
        block_size=block_size,
        batch_size=min(params.batch_size, most),
        max_tokens=params.validation_tokens,
    )
    module: nn.Module = NextTokenLoss(model)
    if kernels == "fused":
        module = FusedNextTokenLoss(model, fabric.device)
    if is_compiled:
        # Where weights are split, messages come inside and between the blocks.
        for part in model.blocks if is_sharded(fabric) else [module]:
            part.compile(dynamic=False)
    with explain_out_of_memory(fabric, plan.micro_batch_size):
        network: Any = fabric.setup_module(module)
        optimizer: Any = fabric.setup_optimizers(build_optimizer(model, params))
        schedule = Schedule(optimizer, params, tokens_per_step=plan.tokens_per_step)
        state = State(fabric, model, optimizer, curves)
        if checkpoints is not None and (checkpoint := checkpoints.load(fabric)):
            state.load(checkpoint)

    watch = DivergenceWatch()
    speed = Speedometer(state.step * plan.tokens_per_step)
    progress = Progress(
        total=plan.num_steps * plan.tokens_per_step,
        initial=state.step * plan.tokens_per_step,
        is_shown=fabric.is_global_zero,
    )
    with (
        progress,
        explain_out_of_memory(fabric, plan.micro_batch_size),
        reported_by_rank_zero(fabric, DivergenceError),
    ):
        while state.step < plan.num_steps:
            schedule.set_learning_rates(state.step)
            losses, gradient_norm = train_step(
                fabric,
                network,
                optimizer,
                cut_into_micro_batches(
                    batches, state.step, plan, rank=fabric.global_rank
                ),
                max_norm=params.gradient_clip_norm,
            )
            state.add(losses)
            watch.check(state.step, state.sum_of_losses, gradient_norm)
            tokens_seen = state.step * plan.tokens_per_step

            if plan.is_report_due(state.step):
                watch.check_pending()  # the report waits for the device anyway
                metrics = {
                    "train_loss": state.report_train_loss(),
                    **learning_rates(optimizer),
                    "gradient_norm": gradient_norm.item(),
                    "tokens_per_second": speed.tokens_per_second(tokens_seen),
                    "tokens_seen": float(tokens_seen),
                }
                curves.add(metrics, step=state.step)
                progress.show(train_loss=state.train_loss)

            if is_validated := plan.is_validation_due(state.step):
                watch.check_pending()
                loss = validate(fabric, network, held_out)
                check_finite(state.step, "validation loss", loss)
                state.validation_loss = loss
                metrics = {"validation_loss": loss, "tokens_seen": float(tokens_seen)}
                curves.add(metrics, step=state.step)
                progress.show(train_loss=state.mean_loss(), validation_loss=loss)
                progress.print_line(tokens_seen)

            progress.update(plan.tokens_per_step)
            if checkpoints is not None:
                checkpoints.after_step(
                    fabric,
                    state.step,
                    was_validated=is_validated,
                    contents=partial(state.checkpoint, watch),  # called if one is due
                )
    unfuse(model)
    to_host(fabric, model)
    return Outcome(
        steps=state.step,
        tokens=state.step * plan.tokens_per_step,
        train_loss=state.train_loss,
        validation_loss=state.validation_loss,
    )


def validate(fabric: Fabric, network: nn.Module, batches: SpreadBatches) -> float:
    """Return the mean loss of the batches, in nats per token; the ranks share them."""
    total = torch.zeros((), device=fabric.device)
    count = torch.zeros((), device=fabric.device)
    network.eval()
    with torch.inference_mode():
        for sequences, weight in share_validation(
            batches, rank=fabric.global_rank, num_ranks=fabric.world_size
        ):
            inputs, targets = cut_on_device(sequences, fabric.device)
            loss = network(inputs, targets)
            total += loss * weight
            count += weight
    network.train()
    drop_rows_of_others(network)
    total, count = sum_over_ranks(fabric, torch.stack([total, count]))
    return (total / count).item()
