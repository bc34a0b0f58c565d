"""The GPT as Lightning sees it: one step of learning, one step of judging."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from toygpt.data.batches import Batch
from toygpt.errors import InputError
from toygpt.model.gpt import GPT, next_token_loss
from toygpt.training.optimizer import build_optimizer
from toygpt.training.schedule import learning_rate_multiplier

if TYPE_CHECKING:
    from toygpt.params import TrainParams


class Training(lightning.LightningModule):
    """Adapt a GPT to Lightning, which calls these methods during `Trainer.fit`."""

    def __init__(
        self,
        model: GPT,
        params: TrainParams,
        *,
        seed: int,
        log_every_steps: int,
        compile_model: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self.params = params
        self.seed = seed
        self.log_every_steps = log_every_steps
        self.tokens_per_step = params.batch_size * model.config.block_size
        # The latest, on the host: to show them costs no waiting for a GPU.
        self.train_loss: float | None = None
        self.validation_loss: float | None = None

        # Compiled as one piece, so that the logits never need a memory of their own.
        self._loss: Callable[[Tensor, Tensor], Tensor] = (
            torch.compile(self._loss_of, dynamic=False)
            if compile_model
            else self._loss_of
        )
        self._sum_of_losses = torch.zeros(())
        self._num_losses = 0
        self._gradient_norm = torch.zeros(())
        self._steps_done = 0
        self._last_log = (0, time.perf_counter())

    def _loss_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return next_token_loss(self.model(inputs), targets)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer, and the schedule that Lightning advances each step."""
        optimizer = build_optimizer(self.model, self.params)
        schedule = LambdaLR(optimizer, self._multiplier)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _multiplier(self, step: int) -> float:
        return learning_rate_multiplier(
            step * self.tokens_per_step,
            tokens_per_step=self.tokens_per_step,
            max_tokens=self.params.max_tokens,
            warmup_tokens=self.params.warmup_tokens,
            decay_tokens=self.params.decay_tokens,
        )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make dropout a function of the step, like everything random in training."""
        if self.params.dropout:
            history = (self.seed, self.global_rank, batch_idx)
            torch.manual_seed(int(np.random.SeedSequence(history).generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss to minimise on one batch, in nats per token."""
        loss = self._loss(*batch)
        self._sum_of_losses = self._sum_of_losses.to(loss.device) + loss.detach()
        self._num_losses += 1
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Shorten long gradients, and keep the length they had.

        Lightning's own clipping refuses fused optimizers under mixed precision
        (https://github.com/Lightning-AI/pytorch-lightning/issues/21435).
        """
        self._gradient_norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self.params.gradient_clip_norm
        )

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Report, every few steps, what happened since the last report."""
        step = self.global_step
        if step == self._steps_done:  # more gradients are being gathered
            return
        self._steps_done = step
        if step % self.log_every_steps and step != self.trainer.max_steps:
            return

        own_loss = self._sum_of_losses / self._num_losses
        loss = self.trainer.strategy.reduce(own_loss, reduce_op="mean").item()
        _check_finite(loss, step)
        last_step, last_time = self._last_log
        now = time.perf_counter()
        tokens_per_second = (
            (step - last_step) * self.tokens_per_step / (now - last_time)
        )
        self._last_log = (step, now)
        self._sum_of_losses.zero_()
        self._num_losses = 0

        self.train_loss = loss
        points = {
            "train_loss": loss,
            "learning_rate": self._multiplier(step - 1) * self.params.learning_rate,
            "gradient_norm": self._gradient_norm.item(),
            "tokens_per_second": tokens_per_second,
            "tokens_seen": float(step * self.tokens_per_step),
        }
        # `self.log` would give the same points to the loggers again at each later step.
        for logger in self.trainer.loggers:
            logger.log_metrics(points, step=step)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the mean loss of the validation split."""
        loss = self._loss(*batch)
        self.log("validation_loss", loss, batch_size=len(batch[0]), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Say which moment of training the validation belongs to."""
        step = self.global_step
        tokens_seen = step * self.tokens_per_step
        self.log_dict(
            {"step": float(step), "tokens_seen": float(tokens_seen)}, sync_dist=True
        )

    def on_validation_end(self) -> None:
        """Note the loss; stop a training that went astray since its last report."""
        loss = self.trainer.callback_metrics["validation_loss"].item()
        _check_finite(loss, self.global_step)
        self.validation_loss = loss


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise InputError(
            f"training diverged: the loss is {loss} after {step} steps; lower "
            f"train.learning_rate or train.muon_learning_rate in params.yaml"
        )
