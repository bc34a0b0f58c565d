"""Excerpts of the test split, token by token, for a person to read."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from toygpt.data.token_files import TokenIds
from toygpt.evaluation.breakdown import Losses, Texts, texts_between
from toygpt.evaluation.test_loss import new_in_a_window, predictions
from toygpt.model.gpt import GPT
from toygpt.pages.labels import characters_of, label_of

EXCERPT_TOKENS = 160
# A text of fewer tokens is easy or hard by accident.
MIN_TOKENS = 200


def easy_middling_and_hard(texts: Texts) -> dict[str, int]:
    """Return the numbers of three texts that are long enough, if there are three."""
    long = np.flatnonzero(texts.tokens >= MIN_TOKENS)
    ranked = long[np.argsort(texts.bits_per_byte[long], kind="stable")].tolist()
    if len(ranked) < 3:
        return {}
    middle = ranked[len(ranked) // 2]
    return {"easiest": ranked[0], "in the middle": middle, "hardest": ranked[-1]}


def excerpt(
    model: GPT,
    tokens: TokenIds,
    bigram_losses: Losses,
    start: int,
    end: int,
    pieces: Sequence[bytes],
    *,
    overlap_fraction: float,
    end_of_text_id: int,
) -> dict[str, Any]:
    """Return the middle of a text, each token as `evaluate` has predicted it.

    The text is read once more: `evaluate` keeps no first choices.

    Args:
        model: A model in evaluation mode.
        tokens: The token ids of the whole test split.
        bigram_losses: Nats, of every token.
        start: The place of the text's first token.
        end: One past its last token.
        pieces: The bytes of each token id; of a special token, those of its name.
        overlap_fraction: As in `evaluate`.
        end_of_text_id: The token id that ends a document.
    """
    first = start + max(0, end - start - EXCERPT_TOKENS) // 2
    last = min(end, first + EXCERPT_TOKENS)
    # From the beginning of the window before, so that the windows are the same.
    new = new_in_a_window(model.config.block_size, overlap_fraction)
    before = max(0, first // new * new - model.config.block_size)
    read = predictions(
        model,
        tokens[before:last],
        batch_size=1,
        overlap_fraction=overlap_fraction,
        end_of_text_id=end_of_text_id,
    )
    logits, answers = (torch.cat(parts)[first - before :] for parts in zip(*read))
    log_probabilities = logits.log_softmax(dim=-1)
    bits = -log_probabilities.gather(-1, answers[:, None])[:, 0] / math.log(2)
    chosen = log_probabilities.max(dim=-1)
    rows = zip(
        answers.tolist(),
        bits.tolist(),
        (bigram_losses[first:last] / math.log(2)).tolist(),
        chosen.indices.tolist(),
        chosen.values.exp().tolist(),
    )
    ...
