"""A network, a text and a training that are small enough for a test."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from toygpt.data.token_files import TokenIds
from toygpt.model.gpt import GPT, GPTConfig
from toygpt.pipeline.params import RuntimeParams, TrainParams

# No machine has both.
ABSENT_ACCELERATOR = "mps" if torch.cuda.is_available() else "cuda"

VOCAB_SIZE = 61
BLOCK_SIZE = 16

CONFIG: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "num_layers": 2,
    "num_heads": 2,
    "block_size": BLOCK_SIZE,
    "embed_dim": 32,
    "dropout": 0.0,
}
TRAIN: dict[str, Any] = {
    "max_tokens": 10 * 8 * BLOCK_SIZE,  # ten steps
    "batch_size": 8,
    "optimizer": "adamw",
    "muon_learning_rate": 2e-2,
    "learning_rate": 5e-3,
    "warmup_tokens": 0,
    "decay_tokens": 0,
    "weight_decay": 0.1,
    "gradient_clip_norm": 1.0,
    "dropout": 0.0,
    "attention": "flash",
    "kernels": "plain",
    "precision": "32-true",
    "validate_every_tokens": 5 * 8 * BLOCK_SIZE,
    "validation_tokens": 8 * BLOCK_SIZE,
}
RUNTIME: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "num_nodes": 1,
    "launcher": "none",
    "strategy": "auto",
    "compile": False,
    "micro_batch_size": 64,
    "deterministic": False,
    "checkpoint_every_steps": None,
    "checkpoint_every_minutes": 1e9,
    "data_engine": "local",
    "data_workers": "auto",
}


def tiny_model(*, seed: int = 1, attention: str = "flash", **changes: Any) -> GPT:
    """Return an untrained model, the same one for the same seed."""
    torch.manual_seed(seed)
    return GPT(GPTConfig(**CONFIG | changes), attention=attention)


def lively_model(*, seed: int = 6, attention: str = "flash", **changes: Any) -> GPT:
    """Return a model whose weights, all of them, are large enough to matter.

    At the start of training attention looks everywhere alike and biases are zero, so
    that many a mistake would leave no trace.
    """
    model = tiny_model(seed=seed, attention=attention, **changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            std = 0.1 if parameter.ndim == 1 else 0.8 if "blocks" in name else 0.3
            parameter.add_(std * torch.randn_like(parameter))
    return model.eval()


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    """Return token ids that nothing connects."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB_SIZE, shape, generator=generator)


def random_text(num_tokens: int, *, seed: int = 0) -> TokenIds:
    """Return the same as it lies on disk."""
    return random_tokens(num_tokens, seed=seed).numpy().astype(np.uint16)


def predictable_text(num_tokens: int, *, seed: int = 0) -> TokenIds:
    """Return a text in which each token has two possible followers."""
    choices = np.random.default_rng(seed).integers(2, size=num_tokens)
    tokens = np.zeros(num_tokens, dtype=np.uint16)
    for place in range(1, num_tokens):
        tokens[place] = (3 * int(tokens[place - 1]) + choices[place] + 1) % VOCAB_SIZE
    return tokens


def train_params(**changes: Any) -> TrainParams:
    """Return the parameters of a training of ten steps."""
    return TrainParams(**TRAIN | changes)


def runtime_params(**changes: Any) -> RuntimeParams:
    """Return the parameters of computing on the processor."""
    return RuntimeParams(**RUNTIME | changes)
