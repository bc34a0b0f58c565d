"""Checkpoints: written between two steps, and read again when training resumes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from toygpt.errors import InputError
from toygpt.training.interruption import SIGNALS, Interruption, Stopped
from toygpt.training.unfinished import HOW_TO_START_OVER, UnfinishedTraining

if TYPE_CHECKING:
    from toygpt.params import RuntimeParams


class Checkpoints(Callback):
    """Keeps a checkpoint every few steps, every few minutes, and on a signal.

    Between two checkpoints Lightning's own loops count the batches, so that training
    goes on in the middle of an epoch as if it had never stopped.
    """

    def __init__(
        self,
        unfinished: UnfinishedTraining,
        runtime: RuntimeParams,
        interruption: Interruption,
    ) -> None:
        self.unfinished = unfinished
        self.every_steps = runtime.checkpoint_every_steps
        self.every_seconds = runtime.checkpoint_every_minutes * 60
        self.interruption = interruption
        self._last_time = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count the minutes."""
        self._last_time = time.monotonic()

    def after_step(self, trainer: Trainer, *, check: Callable[[], None]) -> None:
        """Keep a checkpoint if it is time, and stop if that was asked for.

        Args:
            trainer: Where training stands.
            check: Makes sure that what would be kept is sound.

        Raises:
            Stopped: A signal came.
        """
        wish = self.interruption.signal or int(self._is_due(trainer.global_step))
        if trainer.world_size > 1:  # one for all, and all at the same step
            wishes = torch.tensor(wish, device=trainer.strategy.root_device)
            wish = int(trainer.strategy.reduce(wishes, reduce_op="max"))
        if not wish:
            return
        check()
        # The name is of no account: CheckpointFiles knows the folder.
        trainer.save_checkpoint(self.unfinished.folder / "checkpoint")
        self._last_time = time.monotonic()
        if wish in SIGNALS:
            raise Stopped(
                wish, trainer.global_step, is_first_process=trainer.is_global_zero
            )

    def _is_due(self, step: int) -> bool:
        """Say whether it is time for a checkpoint; True is less than any signal."""
        if self.every_steps is not None and step % self.every_steps == 0:
            return True
        return time.monotonic() - self._last_time >= self.every_seconds


class CheckpointFiles(TorchCheckpointIO):
    """How Lightning writes and reads the checkpoints of an unfinished training.

    Its own way leaves half a file when it is killed at the wrong moment, and reads a
    damaged one without complaint.
    """

    def __init__(self, unfinished: UnfinishedTraining) -> None:
        self.unfinished = unfinished

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint whole, or not at all."""
        self.unfinished.save(
            checkpoint["global_step"],
            lambda file: torch.save(checkpoint, cast("IO[bytes]", file)),
        )

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            InputError: It holds more than numbers, as a file does that would run code.
        """
        try:
            checkpoint: dict[str, Any] = torch.load(
                path, map_location="cpu", weights_only=True
            )
        except (OSError, MemoryError):
            raise
        except Exception:  # torch advises to trust the file: that is not passed on
            raise InputError(
                f"{path} is no checkpoint of toyGPT: it is damaged, or holds a program "
                f"(nothing of it was run); {HOW_TO_START_OVER}"
            ) from None
        return checkpoint
