"""Save checkpoints between two steps, and stop there when a signal asks for it.

All ranks stop, and save, after the same step. Rank zero decides when, and writes alone
unless the weights are split among the ranks; a signal may reach any rank.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric

from toygpt.resuming.checkpoint import CheckpointFolder
from toygpt.resuming.checkpoint_schedule import CheckpointSchedule
from toygpt.resuming.signals import SIGNALS, Interruption, Stopped
from toygpt.training.divergence import LateReader
from toygpt.training.ranks import (
    on_all_ranks,
    on_rank_zero,
    reported_by_rank_zero,
)
from toygpt.training.sharding import is_sharded


class Checkpointing:
    """Reads the checkpoint that a training resumes from, and saves new ones.

    Args:
        folder: Where they are; rank zero alone has locked it.
        schedule: When they are due.
        interruption: Notes the signal that asks to stop.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        schedule: CheckpointSchedule,
        interruption: Interruption,
    ) -> None:
        self.folder = folder
        self.schedule = schedule
        self.interruption = interruption
        self._requests = LateReader()

    def load(self, fabric: Fabric) -> dict[str, Any] | None:
        """Return the newest checkpoint, the same one on all ranks, if there is any.

        From here on the minutes to the next one count.

        Raises:
            InputError: It is damaged.
        """
        self.schedule.start()
        found = on_rank_zero(fabric, self.folder.best_checkpoint)
        # Not the path of the folder, which another machine may see at another place.
        checkpoint = fabric.broadcast(found)
        if checkpoint is None:
            return None
        if fabric.is_global_zero:
            print(f"resuming after step {checkpoint.step:,}", flush=True)
        return on_all_ranks(fabric, partial(self.folder.load, checkpoint))

    def after_step(
        self,
        fabric: Fabric,
        step: int,
        *,
        was_validated: bool,
        contents: Callable[[], dict[str, Any]],
    ) -> None:
        """Save a checkpoint if one is due, and stop if a signal came.

        Args:
            fabric: Of this rank.
            step: The number of steps that are done.
            was_validated: Whether the validation loss was computed after this step.
            contents: Returns what a checkpoint of this moment contains, on all ranks.

        Raises:
            Stopped: A signal came, to any rank.
        """
        is_due = fabric.is_global_zero and self.schedule.is_due(
            step, was_validated=was_validated
        )
        request = self._of_all_ranks(fabric, self.interruption.signal or int(is_due))
        if not request:
            return
        checkpoint = contents()
        start = time.monotonic()
        if is_sharded(fabric):
            self._save_together(fabric, step, checkpoint)
        else:
            on_rank_zero(fabric, lambda: self.folder.save(step, checkpoint))
        self.schedule.written(time.monotonic() - start)
        self._requests.read_pending()  # drops an older one; a signal asks again
        if request in SIGNALS:
            raise Stopped(request, step, is_rank_zero=fabric.is_global_zero)

    def _save_together(
        self, fabric: Fabric, step: int, checkpoint: dict[str, Any]
    ) -> None:
        """Save a checkpoint as a folder, in which each rank writes what it has."""
        from toygpt.resuming.tensor_folder import write_tensors

        folder = self.folder
        tensors = checkpoint.pop("tensors")
        with ExitStack() as stack:  # of rank zero alone
            new = on_rank_zero(
                fabric,
                lambda: stack.enter_context(folder.new_folder(step, checkpoint)),
            )
            # Another machine may see the folder of the training at another place.
            name = str(fabric.broadcast(new and new.path.name))
            with reported_by_rank_zero(fabric):
                files = write_tensors(folder.folder / name, tensors)
            if new is not None:
                new.files.extend(files)
            on_rank_zero(fabric, stack.close)

    def _of_all_ranks(self, fabric: Fabric, request: int) -> int:
        """Return the greatest request of all ranks: a signal, 1 for a checkpoint, or 0.

        On GPUs it is that of the step before, so that none of them is waited for.
        """
        if fabric.world_size == 1:
            return request
        requests = torch.full((1,), request, device=fabric.device)
        torch.distributed.all_reduce(requests, op=torch.distributed.ReduceOp.MAX)
        greatest = self._requests.read(requests)
        return int(greatest[0]) if greatest else 0
