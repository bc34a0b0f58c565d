"""A training of ten steps that saves checkpoints, in the process of the test."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.tiny import BLOCK_SIZE, predictable_text, tiny_model
from tests.training.trained import Trained, trained
from toygpt.model.gpt import GPT
from toygpt.resuming.run_folder import RunFolder

# Twenty-seven blocks, of which each step takes eight: three epochs.
TEXT = predictable_text(29 * BLOCK_SIZE, seed=1)


def train_tiny(root: Path, *, model: GPT | None = None, **options: Any) -> Trained:
    """Train to the end, or until it is stopped, from the last checkpoint in `root`."""
    model = model or tiny_model(num_layers=1)
    return trained(model, root=root, text=TEXT, **options)


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
