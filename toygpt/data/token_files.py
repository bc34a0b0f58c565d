"""Token ids on disk: flat binary files, without any header.

`tokens.bin` holds one token after another, little-endian, so that a memory map reads it
in place; `ends.bin` holds where each document ends. What else there is to know about
the files stands in the manifest beside them (manifest.py).
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

TOKEN_TYPES: dict[str, np.dtype[np.unsignedinteger[Any]]] = {
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
}
END_TYPE = np.dtype("<u8")
# Tokens in memory at once where a whole file would be too much.
TOKENS_AT_ONCE = 8_000_000
# As many tokens are worth a call of the operating system.
TOKENS_WRITTEN_AT_ONCE = 1_000_000

TokenIds = NDArray[np.unsignedinteger[Any]]

Item = TypeVar("Item")


def token_type_for(vocab_size: int) -> str:
    """Return the name of the smallest type that holds every token id."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def write_tokens(
    documents: Iterable[TokenIds], directory: Path, *, token_type: str
) -> tuple[int, int]:
    """Write tokens.bin and ends.bin, many documents at a time.

    Returns:
        How many tokens and how many documents were written.
    """
    num_tokens = num_documents = 0
    with (
        (directory / "tokens.bin").open("wb") as tokens,
        (directory / "ends.bin").open("wb") as ends,
    ):
        for batch in batched(documents, size=TOKENS_WRITTEN_AT_ONCE):
            token_ids = np.concatenate(batch, dtype=TOKEN_TYPES[token_type])
            lengths = np.array([len(document) for document in batch])
            tokens.write(token_ids.data)
            ends.write((num_tokens + lengths.cumsum()).astype(END_TYPE).data)
            num_tokens += len(token_ids)
            num_documents += len(batch)
    return num_tokens, num_documents


def map_tokens(path: Path, *, token_type: str) -> TokenIds:
    """Map a file of at least one token into memory, read-only.

    The operating system reads a part of the file when the part is looked at.
    """
    return np.memmap(path, dtype=TOKEN_TYPES[token_type], mode="r")


def largest_id(tokens: TokenIds) -> int:
    """Return the largest of token ids that may not fit into memory."""
    return max(
        int(tokens[first : first + TOKENS_AT_ONCE].max())
        for first in range(0, len(tokens), TOKENS_AT_ONCE)
    )


def count_tokens(tokens: TokenIds, vocab_size: int) -> NDArray[np.int64]:
    """Return how often each token id occurs."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for first in range(0, len(tokens), TOKENS_AT_ONCE):
        piece = tokens[first : first + TOKENS_AT_ONCE]
        counts += np.bincount(piece, minlength=vocab_size)
    return counts


def batched(
    items: Iterable[Item], *, size: int, length: Callable[[Any], int] = len
) -> Iterator[list[Item]]:
    """Yield items in lists whose lengths add up to `size`, or a little more.

    Args:
        items: Texts, arrays, or anything else that has a length.
        size: What the lengths of one list's items add up to; the last list's to less.
        length: Returns the length of an item.
    """
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += length(item)
        if total >= size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
