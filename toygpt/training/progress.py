"""One line that says how far training is, how fast, and how well."""

import sys
from typing import Any

from lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from toygpt.training.module import Training


class Progress(Callback):
    """A bar in tokens on a terminal; elsewhere, a line at each validation."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.losses: dict[str, str] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar where training starts."""
        assert isinstance(pl_module, Training)
        self.bar = tqdm(
            desc="train",
            total=trainer.max_steps * pl_module.tokens_per_step,
            initial=trainer.global_step * pl_module.tokens_per_step,
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
        assert isinstance(pl_module, Training)
        if pl_module.train_loss is not None:
            self.losses["train_loss"] = f"{pl_module.train_loss:.3f}"
        self.bar.set_postfix(self.losses, refresh=False)
        self.bar.update(trainer.global_step * pl_module.tokens_per_step - self.bar.n)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where training stands, if there is no bar that does."""
        assert isinstance(pl_module, Training)
        loss = trainer.callback_metrics["validation_loss"].item()
        self.losses["validation_loss"] = f"{loss:.3f}"
        if trainer.is_global_zero and (self.bar is None or self.bar.disable):
            seen = trainer.global_step * pl_module.tokens_per_step
            losses = ", ".join(f"{name} {v}" for name, v in self.losses.items())
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
