"""When the ranks save a checkpoint together."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from toygpt.resuming.checkpoint_schedule import CheckpointSchedule
from toygpt.resuming.signals import Interruption
from toygpt.training import checkpointing
from toygpt.training.divergence import LateReader


class ReaderOfAGPU(LateReader):
    """Returns the numbers of the call before, on a processor as well."""

    pending: list[float] | None = None

    def read(self, numbers: torch.Tensor) -> list[float] | None:
        earlier, self.pending = self.pending, numbers.tolist()
        return earlier

    def read_pending(self) -> list[float] | None:
        earlier, self.pending = self.pending, None
        return earlier


def test_a_checkpoint_that_is_due_is_saved_once_though_gpus_answer_a_step_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpointing, "LateReader", ReaderOfAGPU)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_, **__: None)
    fabric: Any = SimpleNamespace(
        world_size=2,
        device="cpu",
        is_global_zero=True,
        strategy=None,
        broadcast=lambda value: value,
    )
    saved: list[int] = []
    folder: Any = SimpleNamespace(save=lambda step, _: saved.append(step))
    schedule = CheckpointSchedule(every_steps=None, every_minutes=1)
    seconds = 0.0
    monkeypatch.setattr("time.monotonic", lambda: seconds)
    schedule.start()
    together = checkpointing.Checkpointing(folder, schedule, Interruption())

    for step in range(1, 11):
        seconds = 25.0 * step
        together.after_step(fabric, step, was_validated=False, contents=dict)

    assert saved == [4, 8]
