"""A training of ten steps that saves checkpoints, in the process of the test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.tiny import (
    BLOCK_SIZE,
    predictable_text,
    runtime_params,
    tiny_model,
    train_params,
)
from toygpt.model.gpt import GPT
from toygpt.resuming.checkpoint_schedule import CheckpointSchedule
from toygpt.resuming.run_folder import RunFolder, open_run_folder
from toygpt.resuming.signals import Interruption
from toygpt.training.checkpointing import Checkpointing
from toygpt.training.launch import launch
from toygpt.training.loop import Outcome, train
from toygpt.training.ranks import on_rank_zero
from toygpt.training.report import Curves

# Twenty-seven blocks, of which each step takes eight: three epochs.
TEXT = predictable_text(29 * BLOCK_SIZE, seed=1)


def train_tiny(
    root: Path,
    *,
    model: GPT | None = None,
    curves: Curves | None = None,
    runtime: dict[str, Any] | None = None,
    **params: Any,
) -> Outcome:
    """Train to the end, or until it is stopped, from the last checkpoint in `root`."""
    settings = runtime_params(**runtime or {})
    schedule = CheckpointSchedule(
        settings.checkpoint_every_steps, settings.checkpoint_every_minutes
    )
    fabric = launch(settings, precision=params.get("precision", "32-true"))
    with Interruption() as interruption, ExitStack() as stack:
        folder = on_rank_zero(
            fabric, lambda: stack.enter_context(open_run_folder(root, {}))
        )
        return train(
            fabric,
            model or tiny_model(num_layers=1),
            TEXT,
            TEXT,
            params=train_params(**params),
            runtime=settings,
            seed=1,
            curves=curves or Curves(),
            checkpoints=Checkpointing(folder, schedule, interruption),
        )


def steps_kept(root: Path) -> list[int]:
    """Return the steps of the checkpoints that are there, the newest first."""
    folders = list(root.glob(".toygpt/resume/*"))
    return [entry.step for path in folders for entry in RunFolder(path).checkpoints()]


@contextmanager
def before_call(
    owner: Any, name: str, number: int, act: Callable[[], None]
) -> Iterator[None]:
    """Act just before the N-th call of a function, counted from 1."""
    function = getattr(owner, name)
    calls = 0

    def counted(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            act()
        return function(*arguments, **more)

    with patch.object(owner, name, counted):
        yield
    assert calls >= number, f"{name} was called {calls} times"
