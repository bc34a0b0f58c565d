"""Excerpts of the test split, token by token, for a person to read."""

import math
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from toygpt.evaluation.breakdown import Losses, Text, ranked
from toygpt.evaluation.test_loss import new_in_a_window, predictions
from toygpt.model.gpt import GPT
from toygpt.pages.labels import characters_of, label_of

EXCERPT_TOKENS = 160


def excerpts_of(
    texts: Sequence[Text],
    losses: Losses,
    model: GPT,
    pieces: Sequence[bytes],
    *,
    overlap_fraction: float,
    end_of_text_id: int,
) -> list[dict[str, Any]]:
    """Return the middle of the easiest text, of a middling one, and of the hardest.

    Each token is as `evaluate` predicted it: the text is read once more in the same
    windows, since `evaluate` keeps no first choices.

    Args:
        texts: Documents or passages of the test split.
        losses: Of all tokens of the test split.
        model: A model in evaluation mode.
        pieces: The bytes of each token id; of a special token, those of its name.
        overlap_fraction: As in `evaluate`.
        end_of_text_id: The token id that ends a document.
    """
    by_hardness = ranked(texts)
    chosen = {
        "easiest": by_hardness[-1],
        "in the middle": by_hardness[len(by_hardness) // 2],
        "hardest": by_hardness[0],
    }
    block_size = model.config.block_size
    new = new_in_a_window(block_size, overlap_fraction)
    found = []
    for title, text in chosen.items():
        skipped = max(0, text.tokens - EXCERPT_TOKENS) // 2
        place = slice(
            text.start + skipped,
            text.start + min(text.tokens, skipped + EXCERPT_TOKENS),
        )
        before = max(0, place.start // new * new - block_size)
        windows = predictions(
            model,
            losses.tokens[before : place.stop],
            batch_size=1,
            overlap_fraction=overlap_fraction,
            end_of_text_id=end_of_text_id,
        )
        logits, answers = (
            torch.cat(parts)[place.start - before :]
            for parts in zip(*windows, strict=True)
        )
        bigram_bits = losses.bigram[place] / math.log(2)
        found.append(
            {
                "title": title,
                "name": text.name,
                "bitsPerByte": text.bits_per_byte,
                "first": skipped + 1,
                "of": text.tokens,
                "tokens": _rows(logits, answers, bigram_bits.tolist(), pieces),
            }
        )
    return found


def _rows(
    logits: Tensor,
    answers: Tensor,
    bigram_bits: list[float],
    pieces: Sequence[bytes],
) -> list[tuple[str, float, float, str, float]]:
    """Return text, bits, the bigram model's bits, the first choice, its probability.

    Each row is a token, or the tokens of a character together.
    """
    log_probabilities = logits.log_softmax(dim=-1)
    bits = -log_probabilities.gather(-1, answers[:, None])[:, 0] / math.log(2)
    first = log_probabilities.max(dim=-1)
    labels = [label_of(pieces[token]) for token in first.indices.tolist()]
    probabilities = first.values.exp().tolist()
    columns = zip(bits.tolist(), bigram_bits, labels, probabilities, strict=True)
    rows = []
    for count, text in characters_of([pieces[token] for token in answers.tolist()]):
        own, bigram, names, chances = zip(*islice(columns, count), strict=True)
        row = (text, sum(own), sum(bigram), "".join(names), math.prod(chances))
        rows.append(row)
    return rows
