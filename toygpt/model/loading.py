"""Load a model with its tokenizer, to evaluate it or to generate text."""

from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from toygpt.data.tokenizer import load_tokenizer, vocab_size_of
from toygpt.model.gpt import GPT
from toygpt.model.huggingface import load_end_of_text_id, load_model
from toygpt.pipeline.errors import InputError


class LoadedModel(NamedTuple):
    """A model in evaluation mode, and what turns its tokens into text."""

    model: GPT
    tokenizer: Tokenizer
    end_of_text_id: int


def load_model_and_tokenizer(directory: Path, device: torch.device) -> LoadedModel:
    """Read a model directory that `save_model` wrote.

    Raises:
        InputError: It is missing or damaged, or model and tokenizer do not fit.
    """
    model = load_model(directory).to(device)
    tokenizer = load_tokenizer(directory)
    if vocab_size_of(tokenizer) != model.config.vocab_size:
        raise InputError(
            f"{directory} predicts {model.config.vocab_size:,} tokens, but its "
            f"tokenizer has {vocab_size_of(tokenizer):,}: they were not trained "
            f"together (`dvc repro --force --single-item train` writes both)"
        )
    return LoadedModel(model, tokenizer, load_end_of_text_id(directory))
