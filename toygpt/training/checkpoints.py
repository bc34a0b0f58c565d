"""Checkpoints: written between two steps, and read again when training resumes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from toygpt.resuming.checkpoint_schedule import CheckpointSchedule
from toygpt.resuming.run_folder import RunFolder
from toygpt.resuming.signals import SIGNALS, Interruption, Stopped

if TYPE_CHECKING:
    from toygpt.pipeline.params import RuntimeParams


class Checkpoints(Callback):
    """Keeps a checkpoint at validations, every few minutes or steps, and on a signal.

    Between two checkpoints Lightning's own loops count the batches, so that training
    goes on in the middle of an epoch as if it had never stopped.
    """

    def __init__(
        self,
        unfinished: RunFolder,
        runtime: RuntimeParams,
        interruption: Interruption,
    ) -> None:
        self.unfinished = unfinished
        self.schedule = CheckpointSchedule(
            runtime.checkpoint_every_steps, runtime.checkpoint_every_minutes
        )
        self.interruption = interruption

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the minutes from here."""
        self.schedule.start()

    def after_step(
        self,
        trainer: Trainer,
        *,
        check: Callable[[], None],
        was_validated: bool,
    ) -> None:
        """Keep a checkpoint if it is time, and stop if that was asked for.

        Args:
            trainer: Where training stands.
            check: Makes sure that what would be kept is sound.
            was_validated: Whether there was a validation after the step.

        Raises:
            Stopped: A signal came.
        """
        is_due = self.schedule.is_due(trainer.global_step, was_validated=was_validated)
        wish = self.interruption.signal or int(is_due)
        if trainer.world_size > 1:  # one for all, and all at the same step
            wishes = torch.tensor(wish, device=trainer.strategy.root_device)
            wish = int(trainer.strategy.reduce(wishes, reduce_op="max"))
        if not wish:
            return
        check()
        start = time.monotonic()
        # The name is of no account: CheckpointFiles knows the folder.
        trainer.save_checkpoint(self.unfinished.folder / "checkpoint")
        self.schedule.written(time.monotonic() - start)
        if wish in SIGNALS:
            raise Stopped(
                wish, trainer.global_step, is_rank_zero=trainer.is_global_zero
            )


class CheckpointFiles(TorchCheckpointIO):
    """How Lightning writes and reads the checkpoints of an unfinished training.

    Its own way leaves half a file when it is killed at the wrong moment, and reads a
    damaged one without complaint.
    """

    def __init__(self, unfinished: RunFolder) -> None:
        self.unfinished = unfinished

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint whole, or not at all."""
        self.unfinished.save(checkpoint["global_step"], checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint."""
        (found,) = (
            entry
            for entry in self.unfinished.checkpoints()
            if self.unfinished.path_of(entry) == Path(path)
        )
        return self.unfinished.load(found)
