"""What is hard: the loss by kinds of token, by documents and by groups of documents."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from toygpt.data.token_files import TOKENS_AT_ONCE, TokenIds

# A text of fewer tokens is easy or hard by accident.
MIN_TOKENS = 200


class Losses(NamedTuple):
    """The tokens of a text, and what each costs in nats."""

    tokens: TokenIds
    model: NDArray[np.float32]
    bigram: NDArray[np.float64]  # to the bigram model
    bytes_of_token: Sequence[bytes]  # the bytes that each token id stands for


class Kind(NamedTuple):
    """Tokens of one kind."""

    kind: str
    bits: float  # per token
    bigram_bits: float
    share: float  # of all tokens


class Text(NamedTuple):
    """A document, a passage of one, or a group of documents, and what it costs."""

    name: str
    group: str
    start: int  # the place of its first token
    tokens: int
    bytes: int
    bits: float
    bigram_bits: float

    @property
    def bits_per_byte(self) -> float:
        """What the model needs for it."""
        return self.bits / max(1, self.bytes)

    @property
    def row(self) -> tuple[str, int, float, float]:
        """Name, tokens, and bits per byte of the model and of the bigram model."""
        bigram = self.bigram_bits / max(1, self.bytes)
        return self.name, self.tokens, self.bits_per_byte, bigram


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


def kinds_of_tokens(losses: Losses) -> list[Kind]:
    """Return the losses of each kind of token, the hardest first."""
    kinds, kind_of_token = np.unique(
        [kind_of(piece) for piece in losses.bytes_of_token], return_inverse=True
    )
    sums = np.zeros((3, len(kinds)))
    for first in range(0, len(losses.tokens), TOKENS_AT_ONCE):
        part = slice(first, first + TOKENS_AT_ONCE)
        for row, values in enumerate((None, losses.model[part], losses.bigram[part])):
            kinds_in_part = kind_of_token[losses.tokens[part]]
            sums[row] += np.bincount(kinds_in_part, values, len(kinds))
    found = []
    for kind, (number, *nats) in zip(kinds.tolist(), sums.T.tolist(), strict=True):
        if number:
            bits, bigram_bits = (each / number / math.log(2) for each in nats)
            found.append(Kind(kind, bits, bigram_bits, number / len(losses.tokens)))
    return sorted(found, key=lambda kind: -kind.bits)


def texts_from(
    starts: NDArray[np.int64], names: Sequence[tuple[str, str]], losses: Losses
) -> list[Text]:
    """Return the texts that begin at these tokens, each up to the next one.

    Args:
        starts: The place of the first token of each text.
        names: The id and the group of each text.
        losses: Of all tokens.
    """
    sizes = np.array([len(piece) for piece in losses.bytes_of_token])
    columns = (
        starts,
        np.diff(starts, append=len(losses.tokens)),
        np.add.reduceat(sizes[losses.tokens], starts),
        np.add.reduceat(losses.model, starts, dtype=np.float64) / math.log(2),
        np.add.reduceat(losses.bigram, starts, dtype=np.float64) / math.log(2),
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [Text(*name, *row) for name, row in zip(names, rows, strict=True)]


def passages_of(documents: Sequence[Text], losses: Losses) -> list[Text]:
    """Return passages of equal length, named after the documents they begin in."""
    size = max(1, min(MIN_TOKENS, len(losses.tokens) // 3))
    starts = np.arange(0, len(losses.tokens) - size + 1, size)
    firsts = [document.start for document in documents]
    numbers = np.searchsorted(firsts, starts, side="right") - 1
    names = [documents[number][:2] for number in numbers.tolist()]
    return texts_from(starts, names, losses)


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
    long = [text for text in texts if text.tokens >= MIN_TOKENS] or texts
    return sorted(long, key=lambda text: -text.bits_per_byte)
