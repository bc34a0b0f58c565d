"""Whether the model recites: how far it continues a text as it is written there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count, islice, takewhile, zip_longest
from typing import Any

import numpy as np

from toygpt.data.token_files import Tokens
from toygpt.generation.fastest import generate_batch
from toygpt.generation.packed import pack
from toygpt.generation.samples import PROMPTS_AT_ONCE
from toygpt.model.gpt import GPT
from toygpt.pages.labels import characters_of

# Tokens of a prompt, and of its continuation, at most.
PROMPT_TOKENS = 32
# A prompt and its continuation of fewer tokens together are left out.
MIN_PASSAGE_TOKENS = 8
# Tokens of the training split that prompts come from and that are searched.
MAX_SEARCHED_TOKENS = 10_000_000


@dataclass
class Passage:
    """A prompt from a text, how the text continues, and how the model continues it."""

    prompt: list[int]
    original: list[int]
    written: list[int]

    @property
    def num_reproduced(self) -> int:
        """How many tokens were written as in the text, before the first other one."""
        pairs = zip(self.written, self.original, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def continued_passages(
    model: GPT, tokens: Tokens, *, num_prompts: int, end_of_text_id: int
) -> list[Passage]:
    """Continue passages of a text with the tokens most likely to the model.

    The passages are evenly spaced. Each lies in one document: where a document ends in
    it, the next one is taken from its beginning. The first half is the prompt.

    Args:
        model: A model in evaluation mode, as `pack` returns it.
        tokens: The token ids of the text.
        num_prompts: How many passages; fewer if the text has not so many.
        end_of_text_id: The token id that ends a document.
    """
    size = 2 * min(PROMPT_TOKENS, model.config.block_size // 2)
    starts = set()
    for place in np.linspace(0, max(0, len(tokens) - size), num_prompts).astype(int):
        ends = np.flatnonzero(tokens[place : place + size] == end_of_text_id)
        starts.add(int(place + ends[0] + 1 if len(ends) else place))
    found = []
    for start in sorted(starts):
        passage = tokens[start : start + size].tolist()
        if end_of_text_id in passage:
            passage = passage[: passage.index(end_of_text_id)]
        if len(passage) >= MIN_PASSAGE_TOKENS:
            half = len(passage) // 2
            found.append(Passage(passage[:half], passage[half:], []))
    for first in range(0, len(found), PROMPTS_AT_ONCE):
        batch = found[first : first + PROMPTS_AT_ONCE]
        for step in generate_batch(
            model,
            [passage.prompt for passage in batch],
            max_new_tokens=size // 2,
            end_of_text_id=end_of_text_id,
        ):
            for number, token_id in step.items():
                if len(batch[number].written) < len(batch[number].original):
                    batch[number].written.append(token_id)
    return found


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
    packed, searched = pack(model), train[:MAX_SEARCHED_TOKENS]
    passages = {
        name: continued_passages(
            packed, tokens, num_prompts=num_prompts, end_of_text_id=end_of_text_id
        )
        for name, tokens in (("train", searched), ("test", test))
    }
    passages["human"] = [replace(it, written=it.original) for it in passages["test"]]
    written = [it.written for each in passages.values() for it in each]
    spans = iter(longest_spans(written, searched, vocab_size=len(pieces)))
    return {"searched": len(searched) / len(train)} | {
        name: _summary(each, list(islice(spans, len(each))), pieces)
        for name, each in passages.items()
        if each
    }


def _summary(
    passages: Sequence[Passage], spans: Sequence[slice], pieces: Sequence[bytes]
) -> dict[str, Any]:
    """Return means and maxima, and the passage with the longest span, as text."""
    reproduced = [passage.num_reproduced for passage in passages]
    lengths = [span.stop - span.start for span in spans]
    passage, span = max(
        zip(passages, spans, strict=True), key=lambda it: it[1].stop - it[1].start
    )
    parts = (
        passage.prompt,
        passage.written[: span.start],
        passage.written[span],
        passage.written[span.stop :],
    )
    return {
        "prompts": len(passages),
        "reproduced": sum(reproduced) / len(passages),
        "most": max(reproduced),
        "span": sum(lengths) / len(passages),
        "longest": max(lengths),
        "example": [
            "".join(text for _, text in characters_of([pieces[it] for it in part]))
            for part in parts
        ],
    }


def longest_spans(
    texts: Sequence[list[int]], train: Tokens, *, vocab_size: int
) -> list[slice]:
    """Return the longest span of each text that the training split holds, too.

    Spans grow by a token at a time. Each time remain the places of the texts where the
    span is in training, and the places of training where one of these spans is. A span
    is known by its number among those as long as itself.
    """
    # No token: what ends a text, and what ends the training split.
    base = vocab_size + 2
    rows = zip_longest(*texts, [], fillvalue=vocab_size)
    tokens = np.array([*rows, [vocab_size] * (len(texts) + 1)], dtype=np.int64).T
    text, train = tokens.ravel(), np.append(train[:], vocab_size + 1)
    lengths = np.zeros(len(text), dtype=np.int64)
    ours, theirs = np.arange(len(text)), np.arange(len(train))
    our_span, their_span = np.zeros_like(ours), np.zeros_like(theirs)
    for length in count():
        spans, our_span = np.unique(
            our_span * base + text[ours + length], return_inverse=True
        )
        wanted = their_span * base + train[theirs + length]
        their_span = np.searchsorted(spans, wanted).clip(max=len(spans) - 1)
        is_ours = spans[their_span] == wanted
        theirs, their_span = theirs[is_ours], their_span[is_ours]
        if not len(theirs):
            break
        is_theirs = np.isin(our_span, their_span)
        ours, our_span = ours[is_theirs], our_span[is_theirs]
        lengths[ours] += 1
    longest = lengths.reshape(tokens.shape)[:-1]
    starts = longest.argmax(axis=1).tolist()
    return [
        slice(start, start + int(row[start]))
        for start, row in zip(starts, longest, strict=True)
    ]
