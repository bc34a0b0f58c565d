"""A model directory, as the stages write it."""

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


def save(
    folder: Path,
    *,
    text: str = TEXT,
    vocab_size: int = VOCAB_SIZE,
    end_of_text_id: int = 0,
    **changes: Any,
) -> Saved:
    tokenizer = train_tokenizer([[text]], vocab_size=vocab_size)
    save_tokenizer(tokenizer, folder / "tokenizer", end_of_text=END_OF_TEXT)
    model = lively_model(vocab_size=vocab_size, **changes)
    directory = folder / "model"
    directory.mkdir()
    save_model(
        model,
        directory,
        end_of_text_id=end_of_text_id,
        tokenizer_directory=folder / "tokenizer",
    )
    return Saved(model, directory, end_of_text_id, tokenizer)
