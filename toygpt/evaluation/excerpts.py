"""Excerpts of the test split, token by token, for a person to read."""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from toygpt.evaluation.breakdown import Losses, Text, ranked
from toygpt.evaluation.test_loss import new_in_a_window, predictions
from toygpt.model.gpt import GPT
from toygpt.pages.labels import characters_of, label_of

EXCERPT_TOKENS = 160


def excerpts_of(
    documents: Sequence[Text],
    losses: Losses,
    model: GPT,
    pieces: Sequence[bytes],
    *,
    overlap_fraction: float,
    end_of_text_id: int,
) -> list[dict[str, Any]]:
    """Return the middle of the easiest document, of a middling one, of the hardest.

    Each token is as `evaluate` predicted it: the text is read once more in the same
    windows, since `evaluate` keeps no first choices.

    Args:
        documents: All of the test split, in its order.
        losses: Of all tokens of the test split.
        model: A model in evaluation mode.
        pieces: The bytes of each token id; of a special token, those of its name.
        overlap_fraction: As in `evaluate`.
        end_of_text_id: The token id that ends a document.
    """
    ends = dict(zip(documents, accumulate(it.tokens for it in documents), strict=True))
    by_hardness = ranked(documents)
    chosen = {  # of fewer than three documents, each once
        by_hardness[-1]: "easiest",
        by_hardness[(len(by_hardness) - 1) // 2]: "in the middle",
        by_hardness[0]: "hardest",
    }
    block_size = model.config.block_size
    new = new_in_a_window(block_size, overlap_fraction)
    found = []
    for text, title in chosen.items():
        skipped = max(0, text.tokens - EXCERPT_TOKENS) // 2
        start = ends[text] - text.tokens + skipped
        place = slice(start, start + min(text.tokens, EXCERPT_TOKENS))
        # The windows of `evaluate` begin at multiples of `new`.
        before = max(0, (start - block_size) // new * new)
        windows = predictions(
            model,
            losses.tokens[before : place.stop],
            batch_size=1,
            overlap_fraction=overlap_fraction,
            end_of_text_id=end_of_text_id,
        )
        logits, answers = (
            torch.cat(parts)[start - before :] for parts in zip(*windows, strict=True)
        )
        bigram_bits = (losses.bigram[place] / math.log(2)).tolist()
        found.append(
            {
                "title": title,
                "name": text.name,
                "bitsPerByte": text.bits_per_byte,
                "first": skipped + 1,
                "of": text.tokens,
                "tokens": list(_rows(logits, answers, bigram_bits, pieces)),
            }
        )
    return found


def _rows(
    logits: Tensor,
    answers: Tensor,
    bigram_bits: list[float],
    pieces: Sequence[bytes],
) -> Iterator[tuple[str, str, float, float, str, float]]:
    """Yield text, label, bits, the bigram's, the first choice and its probability.

    Each row is a token, or the tokens of a character together: then with the first
    choice for the first of them.
    """
    log_probabilities = logits.log_softmax(dim=-1)
    bits = -log_probabilities.gather(-1, answers[:, None])[:, 0] / math.log(2)
    first = log_probabilities.max(dim=-1)
    shown = [pieces[token] for token in answers.tolist()]
    start = 0
    for count, text in characters_of(shown):
        group = slice(start, start + count)
        yield (
            text,
            label_of(b"".join(shown[group])),
            sum(bits[group].tolist()),
            sum(bigram_bits[group]),
            label_of(pieces[int(first.indices[start])]),
            float(first.values[start].exp()),
        )
        start += count
