"""The GPT as Lightning sees it: one step of learning, one step of judging."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from toygpt.data.batches import Batch
from toygpt.model.gpt import GPT, next_token_loss
from toygpt.training.checkpoints import Checkpoints
from toygpt.training.divergence import DivergenceWatch, check_finite
from toygpt.training.optimizer import build_optimizer, learning_rates
from toygpt.training.report import Curves
from toygpt.training.schedule import learning_rate_multiplier

if TYPE_CHECKING:
    from toygpt.pipeline.params import TrainParams


class Training(lightning.LightningModule):
    """Adapt a GPT to Lightning, which calls these methods during `Trainer.fit`."""

    def __init__(
        self,
        model: GPT,
        params: TrainParams,
        *,
        seed: int,
        log_every_steps: int,
        validate_every_steps: int,
        compile_model: bool,
        curves: Curves,
        checkpoints: Checkpoints | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.params = params
        self.seed = seed
        self.log_every_steps = log_every_steps
        self.validate_every_steps = validate_every_steps
        self.curves = curves
        self.checkpoints = checkpoints
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
        self._learning_rates: dict[str, float] = {}
        self._watch = DivergenceWatch()
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

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keep the learning rates of this step; the schedule changes them after it."""
        self._learning_rates = learning_rates(optimizer)

    def on_train_start(self) -> None:
        """Measure the speed from here."""
        self._last_log = (self.global_step, time.perf_counter())

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Finish a step: look for divergence, report, keep a checkpoint."""
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches:
            return  # more gradients are being gathered
        step = self.global_step
        self._watch.look(step, self._sum_of_losses, self._gradient_norm)
        if step % self.log_every_steps == 0 or step == self.trainer.max_steps:
            self._report(step)
        if step % self.validate_every_steps:
            self._step_is_done(was_validated=False)

    def _report(self, step: int) -> None:
        """Tell the loggers what happened since the last report."""
        own_loss = self._sum_of_losses / self._num_losses
        loss = self.trainer.strategy.reduce(own_loss, reduce_op="mean").item()
        last_step, last_time = self._last_log
        now = time.perf_counter()
        tokens_per_second = (
            (step - last_step) * self.tokens_per_step / (now - last_time)
        )
        self._last_log = (step, now)
        self._sum_of_losses.zero_()
        self._num_losses = 0

        self.train_loss = loss
        # `self.log` would give the same points to the loggers again at each later step.
        points = {
            "train_loss": loss,
            **self._learning_rates,
            "gradient_norm": self._gradient_norm.item(),
            "tokens_per_second": tokens_per_second,
            "tokens_seen": float(step * self.tokens_per_step),
        }
        self.curves.log_metrics(points, step=step)

    def _step_is_done(self, *, was_validated: bool) -> None:
        """Let a checkpoint be kept, if training has not gone astray."""
        if self.checkpoints is not None:
            self.checkpoints.after_step(
                self.trainer,
                check=self._check_what_is_kept,
                was_validated=was_validated,
            )

    def _check_what_is_kept(self) -> None:
        """Make sure that training has not gone astray.

        A step may spoil the weights when its loss, taken before, was still good.
        """
        self._watch.settle()
        length = torch.nn.utils.get_total_norm(self.model.parameters())
        check_finite(self.global_step, "length of the weights", length.item())

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
        """Note the loss; a checkpoint after a validation need not repeat it."""
        loss = self.trainer.callback_metrics["validation_loss"].item()
        self._watch.settle()
        check_finite(self.global_step, "validation loss", loss)
        self.validation_loss = loss
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._step_is_done(was_validated=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the reports need of the steps before the checkpoint."""
        checkpoint["accumulation_steps"] = self.trainer.accumulate_grad_batches
        own_sum = self._sum_of_losses.clone()  # of one device; the first one's is kept
        checkpoint["report"] = {
            "sum_of_losses": self.trainer.strategy.reduce(own_sum, reduce_op="mean"),
            "num_losses": self._num_losses,
            "train_loss": self.train_loss,
            "validation_loss": self.validation_loss,
            "curves": self.curves.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take that up again."""
        _count_in_portions(
            checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"],
            before=checkpoint["accumulation_steps"],
            now=self.trainer.accumulate_grad_batches,
        )
        report = checkpoint["report"]
        self._sum_of_losses = report["sum_of_losses"]
        self._num_losses = report["num_losses"]
        self.train_loss = report["train_loss"]
        self.validation_loss = report["validation_loss"]
        self.curves.load_state_dict(report["curves"])


def _count_in_portions(progress: dict[str, Any], *, before: int, now: int) -> None:
    """Let Lightning count as if each step had always had as many portions as now.

    After a training has run out of memory, `runtime.micro_batch_size` is what changes.

    Args:
        progress: What Lightning has counted: portions, where it says batches.
        before: Portions of a step, when they were counted.
        now: Portions of a step, from here on.
    """
    for counts in (progress["total"], progress["current"]):
        steps = counts["processed"] // before
        under_way = counts["processed"] - counts["completed"]
        counts["ready"] = counts["started"] = counts["processed"] = steps * now
        counts["completed"] = steps * now - under_way
