"""What is hard: the loss by kinds of token, by documents and by groups of documents."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from toygpt.data.token_files import TOKENS_AT_ONCE, TokenIds, count_tokens

Losses = NDArray[np.floating[Any]]


class Kind(NamedTuple):
    """Tokens of one kind."""

    kind: str
    bits: float  # per token
    bigram_bits: float
    share: float  # of all tokens


@dataclass(frozen=True)
class Texts:
    """Parts of the test split, each a document or a group of them, as columns."""

    names: Sequence[str]
    tokens: NDArray[np.int64]
    bytes: NDArray[np.int64]
    bits: NDArray[np.float64]
    bigram_bits: NDArray[np.float64]

    @property
    def bits_per_byte(self) -> NDArray[np.float64]:
        """Of each text, to the model."""
        return self.bits / np.maximum(self.bytes, 1)

    @property
    def bigram_bits_per_byte(self) -> NDArray[np.float64]:
        """Of each text, to the bigram model."""
        return self.bigram_bits / np.maximum(self.bytes, 1)

    def grouped(self, groups: Sequence[str]) -> "Texts":
        """Return the sums over each group, in the order of the groups' names."""
        names, group = np.unique(np.array(groups, dtype=object), return_inverse=True)

        def sums(values: NDArray[Any]) -> NDArray[Any]:
            return np.bincount(group, values, len(names)).astype(values.dtype)

        columns = (self.tokens, self.bytes, self.bits, self.bigram_bits)
        return Texts(names.tolist(), *map(sums, columns))


def texts_between(
    starts: NDArray[np.int64],
    names: Sequence[str],
    tokens: TokenIds,
    losses: Sequence[Losses],
    bytes_of_token: Sequence[bytes],
) -> Texts:
    """Return the texts that begin at these tokens, each up to the next one.

    Args:
        starts: The place of the first token of each text.
        names: Of each text.
        tokens: The token ids of all texts.
        losses: Nats, of every token, to the model and to the bigram model.
        bytes_of_token: The bytes that each token id stands for.
    """
    sizes = np.array([len(piece) for piece in bytes_of_token])
    bits = (np.add.reduceat(each, starts, dtype=np.float64) for each in losses)
    return Texts(
        names,
        np.diff(starts, append=len(tokens)),
        np.add.reduceat(sizes[tokens], starts),
        *(each / math.log(2) for each in bits),
    )


def kind_of(piece: bytes) -> str:
    """Return the kind of a token, in words that fit any language."""
    if not piece:
        return "end of text"
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return "part of a character"
    bare = text.strip()
    if not bare:
        return "spaces and newlines"
    if bare.isdecimal():
        return "digits"
    if not any(map(str.isalnum, bare)):
        return "punctuation"
    return "letters after a space" if text[0].isspace() else "letters, without a space"


def kinds_of_tokens(
    tokens: TokenIds,
    losses: Sequence[Losses],
    bytes_of_token: Sequence[bytes],
) -> list[Kind]:
    """Return the loss of each kind of token, the hardest first.

    Args:
        tokens: The token ids of the text.
        losses: Nats, of every token, to the model and to the bigram model.
        bytes_of_token: The bytes that each token id stands for.
    """
    names, kind_of_token = np.unique(
        [kind_of(piece) for piece in bytes_of_token], return_inverse=True
    )
    by_token = [
        count_tokens(tokens, len(bytes_of_token)),
        *(_sum_by_token(tokens, each, len(bytes_of_token)) for each in losses),
    ]
    counts, model, bigram = (np.bincount(kind_of_token, each) for each in by_token)
    kinds = [
        Kind(
            str(names[kind]),
            float(model[kind] / counts[kind] / math.log(2)),
            float(bigram[kind] / counts[kind] / math.log(2)),
            float(counts[kind] / len(tokens)),
        )
        for kind in np.flatnonzero(counts)
    ]
    return sorted(kinds, key=lambda kind: -kind.bits)


def _sum_by_token(
    tokens: TokenIds, losses: Losses, vocab_size: int
) -> NDArray[np.float64]:
    total = np.zeros(vocab_size)
    for first in range(0, len(tokens), TOKENS_AT_ONCE):
        piece = slice(first, first + TOKENS_AT_ONCE)
        total += np.bincount(tokens[piece], losses[piece], vocab_size)
    return total
