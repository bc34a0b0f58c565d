"""A model directory, written once for all tests of its reader."""

from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from tests.tiny import lively_model
from toygpt.data.tokenizer import END_OF_TEXT, save_tokenizer, train_tokenizer
from toygpt.model.gpt import GPT
from toygpt.model.huggingface import save_model

TEXT = "def read_config(path):\n    return path.read_text()\n"
VOCAB_SIZE = 270


class Saved(NamedTuple):
    """A model and the directory that it was written to."""

    model: GPT
    directory: Path
    end_of_text_id: int
    tokenizer: Tokenizer


def save(folder: Path, *, end_of_text_id: int = 0, **changes: Any) -> Saved:
    """Write a model to a new folder."""
    tokenizer = train_tokenizer([[TEXT]], vocab_size=VOCAB_SIZE)
    save_tokenizer(tokenizer, folder / "tokenizer", end_of_text=END_OF_TEXT)
    model = lively_model(vocab_size=VOCAB_SIZE, **changes)
    (folder / "model").mkdir(parents=True)
    save_model(
        model,
        folder / "model",
        end_of_text_id=end_of_text_id,
        tokenizer_directory=folder / "tokenizer",
    )
    return Saved(model, folder / "model", end_of_text_id, tokenizer)
