"""A training of ten steps without checkpoints, and its results."""

from collections.abc import Mapping
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
from toygpt.training.launch import launch
from toygpt.training.loop import Outcome, train
from toygpt.training.precision import resolve_kernels, resolve_precision
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
    seed: int = 1,
    text: TokenIds = TRAIN_TEXT,
    runtime: dict[str, Any] | None = None,
    logger: Any = None,
    **changes: Any,
) -> Trained:
    """Train a model, by default for ten steps."""
    model = model or tiny_model()
    points = Points()
    curves = Curves(logger or points)
    params = train_params(**changes)
    settings = runtime_params(**runtime or {})
    precision = resolve_precision(params.precision, "cpu")
    outcome = train(
        launch(settings, precision=precision),
        model,
        text,
        VALIDATION_TEXT,
        params=params,
        runtime=settings,
        seed=seed,
        curves=curves,
        kernels=resolve_kernels(params.kernels, precision=precision, accelerator="cpu"),
    )
    return Trained(model, outcome, curves, points.noted)
