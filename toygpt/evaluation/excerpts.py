"""Excerpts of the test split, token by token, for a person to read."""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from toygpt.evaluation.breakdown import Losses, Part, ranked
from toygpt.pages.labels import characters_of, label_of

EXCERPT_TOKENS = 160


def excerpts_of(
    documents: Sequence[Part],
    losses: Losses,
    first_choices: Callable[[slice], Sequence[tuple[int, float]]],
    pieces: Sequence[bytes],
) -> Iterator[dict[str, Any]]:
    """Yield the middle of the easiest document, of a middling one, of the hardest.

    Args:
        documents: All of the test split, in its order.
        losses: Of all tokens of the test split.
        first_choices: Returns the first choices for some of these tokens.
        pieces: The bytes of each token id; of a special token, those of its name.
    """
    ends = dict(zip(documents, accumulate(it.tokens for it in documents), strict=True))
    by_hardness = ranked(documents)
    chosen = {  # of fewer than three documents, each once
        by_hardness[-1]: "easiest",
        by_hardness[(len(by_hardness) - 1) // 2]: "in the middle",
        by_hardness[0]: "hardest",
    }
    for text, title in chosen.items():
        skipped = max(0, text.tokens - EXCERPT_TOKENS) // 2
        start = ends[text] - text.tokens + skipped
        place = slice(start, start + min(text.tokens, EXCERPT_TOKENS))
        yield {
            "title": title,
            "text": text,
            "first": skipped + 1,
            "tokens": list(_rows(losses, place, first_choices(place), pieces)),
        }


def _rows(
    losses: Losses,
    place: slice,
    first_choices: Sequence[tuple[int, float]],
    pieces: Sequence[bytes],
) -> Iterator[tuple[str, str, float, float, str, float]]:
    """Yield text, label, bits, the bigram's, the first choice and its probability.

    Each row is a token, or the tokens of a character together: then with the first
    choice for the first of them.
    """
    shown = [pieces[token] for token in losses.tokens[place]]
    costs = np.stack([losses.model[place], losses.bigram[place]])
    start = 0
    for count, text in characters_of(shown):
        group = slice(start, start + count)
        bits, bigram_bits = costs[:, group].sum(axis=1).tolist()
        guess, probability = first_choices[start]
        label, guessed = label_of(b"".join(shown[group])), label_of(pieces[guess])
        yield text, label, bits, bigram_bits, guessed, probability
        start += count
