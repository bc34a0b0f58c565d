"""The settings of a training that is measured, in place of those in params.yaml.

Without pydantic, so that it also runs where a benchmark of a GPU does.
"""

from types import SimpleNamespace
from typing import Any


def optimizer_settings(**changes: Any) -> SimpleNamespace:
    """Return what the optimizer is made of."""
    settings = {
        "optimizer": "muon",
        "learning_rate": 1e-4,
        "muon_learning_rate": 1e-3,
        "weight_decay": 0.1,
    }
    return SimpleNamespace(**settings | changes)


def train_settings(
    *, steps: int, batch_size: int, block_size: int, **changes: Any
) -> SimpleNamespace:
    """Return the settings of some steps and, after the last one, a validation.

    Args:
        steps: How many.
        batch_size: Sequences in a step.
        block_size: Tokens in a sequence.
        changes: Other settings.
    """
    tokens_per_step = batch_size * block_size
    settings = {
        "max_tokens": steps * tokens_per_step,
        "batch_size": batch_size,
        "warmup_tokens": 0,
        "decay_tokens": 0,
        "gradient_clip_norm": 1.0,
        "validate_every_tokens": steps * tokens_per_step,
        "validation_tokens": tokens_per_step,
    }
    return optimizer_settings(**settings | changes)


def runtime_settings(**changes: Any) -> SimpleNamespace:
    """Return how to compute: on one device, not compiled."""
    settings = {
        "accelerator": "auto",
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "compile": False,
        "micro_batch_size": "auto",
        "deterministic": False,
    }
    return SimpleNamespace(**settings | changes)
