"""What is hard: the loss by kinds of token, by documents and by groups of documents."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from toygpt.data.token_files import TOKENS_AT_ONCE, TokenIds
from toygpt.pages.labels import escaped

# A document of fewer tokens is easy or hard by accident.
MIN_RANKED_TOKENS = 200


class Losses(NamedTuple):
    """The tokens of a text, and what each costs in nats."""

    tokens: TokenIds
    model: NDArray[np.float32]
    bigram: NDArray[np.float32]  # to the bigram model


class Text(NamedTuple):
    """A document, a group of documents or all tokens of a kind, and what it costs."""

    name: str
    group: str
    tokens: int
    bytes: int
    bits: float
    bigram_bits: float

    @property
    def bits_per_byte(self) -> float:
        """What the model needs for it."""
        return self.bits / max(1, self.bytes)


def kind_of(piece: bytes) -> str:
    """Return the kind of a token, in words that fit any language."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return "part of a character"
    bare = text.strip()
    if not bare:
        return "spaces and newlines" if text else "end of a document"
    if bare.isdecimal():
        return "digits"
    if not any(map(str.isalnum, bare)):
        return "punctuation"
    return "letters after a space" if text[0].isspace() else "letters, no space before"


def kinds_and_documents(
    losses: Losses,
    documents: Sequence[tuple[str, str]],
    bytes_of_token: Sequence[bytes],
    *,
    end_of_text_id: int,
) -> tuple[list[Text], list[Text]]:
    """Return what each kind of token costs, the hardest first, and each document.

    Args:
        losses: Of all tokens.
        documents: The id and the group of each document, in the order of the tokens.
        bytes_of_token: The bytes that each token id stands for.
        end_of_text_id: The token id that ends a document.
    """
    sizes = np.array([len(piece) for piece in bytes_of_token])
    kinds, kind_of_token = np.unique(
        [kind_of(piece) for piece in bytes_of_token], return_inverse=True
    )
    of_kinds, of_documents = np.zeros((4, len(kinds))), np.zeros((4, len(documents)))
    num_ended = 0
    for first in range(0, len(losses.tokens), TOKENS_AT_ONCE):
        ids, *nats = (each[first : first + TOKENS_AT_ONCE] for each in losses)
        ends = ids == end_of_text_id
        document = num_ended + ends.cumsum() - ends
        num_ended += int(ends.sum())
        for sums, place in ((of_kinds, kind_of_token[ids]), (of_documents, document)):
            for row, values in enumerate((None, sizes[ids], *nats)):
                sums[row] += np.bincount(place, values, sums.shape[1])
    by_kind = _texts([(kind, "") for kind in kinds.tolist()], of_kinds)
    by_kind.sort(key=lambda kind: -kind.bits / kind.tokens)
    return by_kind, _texts(documents, of_documents)


def _texts(names: Sequence[tuple[str, str]], sums: NDArray[np.float64]) -> list[Text]:
    """Return the texts that have tokens: these are counted first, nats come last.

    A name of a file may hold characters that turn or hide the text around them.
    """
    counts, bits = sums[:2].astype(int).T.tolist(), sums[2:].T / math.log(2)
    rows = zip(names, counts, bits.tolist(), strict=True)
    return [
        Text(escaped(name), escaped(group), *counted, *cost)
        for (name, group), counted, cost in rows
        if counted[0]
    ]


def groups_of(documents: Sequence[Text]) -> list[Text]:
    """Return the sums over each group of documents."""
    members = defaultdict(list)
    for document in documents:
        members[document.group].append(document[2:])
    return [
        Text(group, group, *map(sum, zip(*rows, strict=True)))
        for group, rows in members.items()
    ]


def ranked(texts: Sequence[Text]) -> list[Text]:
    """Return the texts that are long enough to compare, the hardest first."""
    long = [text for text in texts if text.tokens >= MIN_RANKED_TOKENS] or texts
    return sorted(long, key=lambda text: -text.bits_per_byte)
