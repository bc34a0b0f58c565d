"""Whether the model recites: how far it continues a text as it is written there."""

import math
from collections.abc import Sequence
from itertools import takewhile
from operator import eq
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from toygpt.data.token_files import TokenIds, Tokens
from toygpt.generation.packed import pack
from toygpt.generation.samples import continuations
from toygpt.model.gpt import GPT
from toygpt.pages.labels import characters_of

# Tokens of a prompt, and of its continuation, at most.
PROMPT_TOKENS = 32
# A prompt and its continuation of fewer tokens together are left out.
MIN_PASSAGE_TOKENS = 8
# Tokens of the training split that prompts come from and that are searched.
MAX_SEARCHED_TOKENS = 10_000_000


class Passage(NamedTuple):
    """A prompt from a text, how the text continues, and how the model continues it."""

    prompt: list[int]
    original: list[int]
    written: list[int]

    @property
    def num_reproduced(self) -> int:
        """How many tokens were written as in the text, before the first other one."""
        return sum(takewhile(bool, map(eq, self.written, self.original)))


def recite(
    model: GPT,
    train: Tokens,
    test: Tokens,
    pieces: Sequence[bytes],
    *,
    num_prompts: int,
    end_of_text_id: int,
) -> dict[str, Any]:
    """Return how far the model recites training, and how far the test text, unseen.

    Args:
        model: A model in evaluation mode.
        train: The token ids of the training split.
        test: The token ids of the test split.
        pieces: The bytes of each token id; of a special token, those of its name.
        num_prompts: Prompts from each split.
        end_of_text_id: The token id that ends a document.

    Returns:
        The share of training that was `searched`; and the same of prompts from `train`
        and from `test`, and of `human` text, the test passages as they continue
        themselves: each only if there are passages.
    """
    searched = train[:MAX_SEARCHED_TOKENS]
    found: dict[str, Any] = {"searched": len(searched) / len(train)}
    # No text holds the end of a document: no span reaches the end of training.
    searched = np.pad(searched, (0, 1), constant_values=end_of_text_id)
    places, packed = places_of_tokens(searched, len(pieces)), pack(model)
    of_train, of_test = (
        continued_passages(packed, tokens, num_prompts, end_of_text_id)
        for tokens in (searched, test)
    )
    human = [passage._replace(written=passage.original) for passage in of_test]
    for name, passages in (("train", of_train), ("test", of_test), ("human", human)):
        if passages:
            spans = [longest_span(it.written, searched, places) for it in passages]
            (length, start), (prompt, _, text) = max(zip(spans, passages, strict=True))
            parts = prompt, text[:start], text[start:][:length], text[start + length :]
            reproduced = [it.num_reproduced for it in passages]
            found[name] = {
                "passages": len(passages),
                "reproduced": float(np.mean(reproduced)),
                "error": standard_error(reproduced),
                "longest": length,
                "example": [_shown(part, pieces) for part in parts],
            }
    return found


def standard_error(numbers: Sequence[float]) -> float | None:
    """Return how far their mean may be off; one number alone does not say."""
    if len(numbers) < 2:
        return None
    return float(np.std(numbers, ddof=1)) / math.sqrt(len(numbers))


def continued_passages(
    model: GPT, tokens: Tokens, num_prompts: int, end_of_text_id: int
) -> list[Passage]:
    """Continue passages of a text with the tokens most likely to the model.

    The passages are evenly spaced, and end where a document ends. The first half of
    each is the prompt.

    Args:
        model: A model in evaluation mode, as `pack` returns it.
        tokens: The token ids of the text.
        num_prompts: How many passages; fewer if the text has not so many.
        end_of_text_id: The token id that ends a document.
    """
    size = 2 * min(PROMPT_TOKENS, model.config.block_size // 2)
    starts = np.linspace(0, max(0, len(tokens) - size), num_prompts, dtype=int)
    windows = [tokens[start : start + size].tolist() for start in np.unique(starts)]
    texts = [[*takewhile(end_of_text_id.__ne__, window)] for window in windows]
    texts = [text for text in texts if len(text) >= MIN_PASSAGE_TOKENS]
    prompts = [text[: len(text) // 2] for text in texts]
    written = continuations(
        model,
        prompts,
        max_new_tokens=size // 2,
        end_of_text_id=end_of_text_id,
        description="recite",
    )
    return [
        Passage(prompt, text[len(prompt) :], new[: len(text) - len(prompt)])
        for prompt, text, new in zip(prompts, texts, written, strict=True)
    ]


def places_of_tokens(tokens: TokenIds, vocab_size: int) -> list[NDArray[np.int64]]:
    """Return for each token id where in a text it is."""
    counts = np.bincount(tokens, minlength=vocab_size)
    return np.split(np.argsort(tokens, kind="stable"), counts.cumsum()[:-1])


def longest_span(
    text: Sequence[int], train: TokenIds, places: Sequence[NDArray[np.int64]]
) -> tuple[int, int]:
    """Return length and start of the longest span that the training split holds, too.

    Args:
        text: Some token ids, none of them the last one of `train`.
        train: The token ids of the training split.
        places: Where each token is in it, as `places_of_tokens` returns them.
    """
    spans = [(0, 0)]
    for start in range(len(text)):
        # Where training holds the span that starts here: the longer, the fewer.
        found, length = places[text[start]], 0
        while len(found):
            length += 1
            if start + length == len(text):
                break
            found = found[train[found + length] == text[start + length]]
        spans.append((length, start))
    return max(spans, key=lambda span: span[0])


def _shown(tokens: Sequence[int], pieces: Sequence[bytes]) -> str:
    return "".join(text for _, text in characters_of([pieces[it] for it in tokens]))
