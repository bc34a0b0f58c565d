"""What is hard: the loss by kinds of token, by documents and by groups of documents."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from toygpt.data.token_files import TokenIds
from toygpt.pages.labels import escaped

Numbers = NDArray[np.int64]
# A document of fewer tokens is easy or hard by accident.
MIN_RANKED_TOKENS = 200


class Losses(NamedTuple):
    """The tokens of a text, and what each costs in bits."""

    tokens: TokenIds
    model: NDArray[np.float32]
    bigram: NDArray[np.float32]  # to the bigram model


class Part(NamedTuple):
    """All tokens of a kind, of a document or of a group of documents."""

    name: str
    tokens: int
    bits: float  # for a token of a kind, for a byte of a document or of a group
    bigram_bits: float


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


def break_down(
    losses: Losses,
    documents: Sequence[tuple[str, str]],
    bytes_of_token: Sequence[bytes],
    *,
    end_of_text_id: int,
) -> tuple[list[Part], list[Part], list[Part]]:
    """Return the kinds of token, the hardest first, the documents, and their groups.

    Args:
        losses: Of all tokens.
        documents: The id and the group of each document, in the order of the tokens.
        bytes_of_token: The bytes that each token id stands for.
        end_of_text_id: The token id that ends a document.
    """
    ends = losses.tokens == end_of_text_id
    document = ends.cumsum() - ends
    kinds, kind = _numbered(map(kind_of, bytes_of_token))
    groups, group = _numbered(group for _, group in documents)
    sizes = np.array([len(piece) for piece in bytes_of_token])[losses.tokens]
    return (
        sorted(_parts(kinds, kind[losses.tokens], losses), key=lambda part: -part.bits),
        _parts([name for name, _ in documents], document, losses, sizes),
        _parts(groups, group[document], losses, sizes),
    )


def _numbered(labels: Iterable[str]) -> tuple[list[str], Numbers]:
    """Return the labels, each once, and of each given one its number among them."""
    numbers: dict[str, int] = {}
    places = [numbers.setdefault(label, len(numbers)) for label in labels]
    return list(numbers), np.array(places)


def _parts(
    names: list[str], place: Numbers, losses: Losses, sizes: Numbers | None = None
) -> list[Part]:
    """Return the parts that have tokens.

    A name of a file may hold characters that turn or hide the text around them.

    Args:
        names: Of the parts.
        place: Of each token, the number of its part.
        losses: Of all tokens.
        sizes: Of each token, the bytes that its bits are spread over; else it counts 1.
    """
    tokens = np.bincount(place, minlength=len(names))
    units = np.bincount(place, sizes, len(names)).clip(min=1)
    bits, bigram_bits = (
        (np.bincount(place, each, len(names)) / units).tolist()
        for each in (losses.model, losses.bigram)
    )
    rows = zip(map(escaped, names), tokens.tolist(), bits, bigram_bits, strict=True)
    return [row for row in map(Part._make, rows) if row.tokens]


def ranked(texts: Sequence[Part]) -> list[Part]:
    """Return the texts that are long enough to compare, the hardest first."""
    long = [text for text in texts if text.tokens >= MIN_RANKED_TOKENS] or texts
    return sorted(long, key=lambda text: -text.bits)
