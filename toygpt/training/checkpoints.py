"""Checkpoints: written between two steps, and read again when training resumes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from toygpt.pipeline.errors import InputError
from toygpt.resuming.run_folder import HOW_TO_START_OVER, RunFolder
from toygpt.resuming.signals import SIGNALS, Interruption, Stopped

if TYPE_CHECKING:
    from toygpt.pipeline.params import RuntimeParams

# What checkpoints at validations may take of the time of a training, at most.
CHEAP_FRACTION = 0.02


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
        self.every_steps = runtime.checkpoint_every_steps
        self.every_seconds = runtime.checkpoint_every_minutes * 60
        self.interruption = interruption
        self._last_time = time.monotonic()
        self._seconds_to_write = 0.0  # the last one; the first is written to learn it

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count the minutes."""
        self._last_time = time.monotonic()

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
        is_due = self._is_due(trainer.global_step, was_validated=was_validated)
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
        self._last_time = time.monotonic()
        self._seconds_to_write = self._last_time - start
        if wish in SIGNALS:
            raise Stopped(
                wish, trainer.global_step, is_rank_zero=trainer.is_global_zero
            )

    def _is_due(self, step: int, *, was_validated: bool) -> bool:
        """Say whether it is time for a checkpoint; True is less than any signal."""
        seconds = time.monotonic() - self._last_time
        if seconds >= self.every_seconds:
            return True
        if self.every_steps is not None:
            return step % self.every_steps == 0
        return was_validated and self._seconds_to_write <= CHEAP_FRACTION * seconds


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
