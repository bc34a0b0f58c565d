"""A training of ten steps, and its results."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from tests.tiny import (
    BLOCK_SIZE,
    predictable_text,
    runtime_params,
    tiny_model,
    train_params,
)
from toygpt.data.token_files import TokenIds
from toygpt.model.gpt import GPT
from toygpt.resuming.checkpoint_schedule import CheckpointSchedule
from toygpt.resuming.run_folder import open_run_folder, run_folder_of
from toygpt.resuming.signals import Interruption
from toygpt.training.checkpointing import Checkpointing
from toygpt.training.launch import launch
from toygpt.training.loop import Outcome, train
from toygpt.training.precision import resolve_kernels, resolve_precision
from toygpt.training.ranks import on_rank_zero
from toygpt.training.report import Curves

TOKENS_PER_STEP = 8 * BLOCK_SIZE
TRAIN_TEXT = predictable_text(5_000, seed=1)
VALIDATION_TEXT = predictable_text(1_000, seed=2)


class Points:
    """A logger that notes all points."""

    def __init__(self) -> None:
        self.noted: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Note a point."""
        self.noted.append((step, dict(metrics)))


class Trained(NamedTuple):
    """A training and its results."""

    model: GPT
    outcome: Outcome
    curves: Curves
    points: list[tuple[int, dict[str, float]]]


def trained(
    model: GPT | None = None,
    *,
    root: Path | None = None,
    seed: int = 1,
    text: TokenIds = TRAIN_TEXT,
    runtime: dict[str, Any] | None = None,
    logger: Any = None,
    **changes: Any,
) -> Trained:
    """Train a model, by default for ten steps.

    With a root, its checkpoints lie there: training resumes from the last one, and a
    signal stops it.
    """
    model = model or tiny_model()
    points = Points()
    curves = Curves(logger or points)
    params = train_params(**changes)
    settings = runtime_params(**runtime or {})
    precision = resolve_precision(params.precision, "cpu")
    kernels = resolve_kernels(params.kernels, precision=precision, accelerator="cpu")
    fabric = launch(settings, precision=precision)
    with ExitStack() as stack:
        checkpoints = None
        if root is not None:
            interruption = stack.enter_context(Interruption())
            opened = open_run_folder(root, {})
            on_rank_zero(fabric, lambda: stack.enter_context(opened))
            checkpoints = Checkpointing(
                run_folder_of(root, {}),
                CheckpointSchedule(
                    settings.checkpoint_every_steps, settings.checkpoint_every_minutes
                ),
                interruption,
            )
        outcome = train(
            fabric,
            model,
            text,
            VALIDATION_TEXT,
            params=params,
            runtime=settings,
            seed=seed,
            curves=curves,
            kernels=kernels,
            checkpoints=checkpoints,
        )
    return Trained(model, outcome, curves, points.noted)
