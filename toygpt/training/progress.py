"""One line that says how far training is, how fast, and how well."""

import sys
from typing import Any

from lightning import Callback, LightningModule, Trainer
from tqdm import tqdm


class Progress(Callback):
    """A bar in tokens on a terminal; elsewhere, a line at each validation."""

    def __init__(self, tokens_per_step: int) -> None:
        self.tokens_per_step = tokens_per_step
        self.bar: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar where training starts."""
        self.bar = tqdm(
            desc="train",
            total=trainer.max_steps * self.tokens_per_step,
            initial=trainer.global_step * self.tokens_per_step,
            unit="tok",
            unit_scale=True,
            disable=not (trainer.is_global_zero and sys.stderr.isatty()),
        )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar to the tokens seen so far."""
        seen = trainer.global_step * self.tokens_per_step
        self.bar.set_postfix(self._losses(trainer), refresh=False)
        self.bar.update(seen - self.bar.n)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where training stands, if there is no bar that does."""
        if trainer.is_global_zero and self.bar.disable:
            seen = trainer.global_step * self.tokens_per_step
            losses = ", ".join(f"{k} {v}" for k, v in self._losses(trainer).items())
            print(f"{seen:,} tokens: {losses}", flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the finished bar on the screen."""
        self.bar.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the bar where training broke off."""
        if self.bar is not None:
            self.bar.close()

    @staticmethod
    def _losses(trainer: Trainer) -> dict[str, str]:
        return {
            name: f"{trainer.callback_metrics[name]:.3f}"
            for name in ("train_loss", "validation_loss")
            if name in trainer.callback_metrics
        }
