"""Token ids on disk: flat binary files, without any header.

`tokens.bin` holds one token after another, little-endian, so that a memory map reads it
in place; `ends.bin` holds where each document ends, counted from the start of its
shard (shards.py). What else there is to know about the files stands in the manifest
beside them (manifest.py).
"""

import resource
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from toygpt.data.shards import THE_ONLY_SHARD, Shard
from toygpt.pipeline.errors import InputError

TOKEN_TYPES: dict[str, np.dtype[np.unsignedinteger[Any]]] = {
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
}
END_TYPE = np.dtype("<u8")
# Tokens in memory at once where a whole file would be too much.
TOKENS_AT_ONCE = 8_000_000
# As many tokens are worth a call of the operating system.
TOKENS_WRITTEN_AT_ONCE = 1_000_000
# A shard's tokens and its parts in train, validation and test.
OPEN_FILES_PER_SHARD = 4
OTHER_OPEN_FILES = 256

TokenIds = NDArray[np.unsignedinteger[Any]]

Item = TypeVar("Item")


def token_type_for(vocab_size: int) -> str:
    """Return the name of the smallest type that holds every token id."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def write_tokens(
    documents: Iterable[TokenIds],
    directory: Path,
    *,
    token_type: str,
    shard: Shard = THE_ONLY_SHARD,
) -> tuple[int, int]:
    """Write tokens.bin and ends.bin of a shard, many documents at a time.

    Returns:
        How many tokens and how many documents were written.
    """
    num_tokens = num_documents = 0
    with (
        (directory / shard.name("tokens.bin")).open("wb") as tokens,
        (directory / shard.name("ends.bin")).open("wb") as ends,
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
    """Map a file into memory, read-only.

    The operating system reads a part of the file when the part is looked at.
    """
    if path.stat().st_size == 0:  # which cannot be mapped
        return np.empty(0, dtype=TOKEN_TYPES[token_type])
    # As a plain array: np.memmap, a class of its own, takes 5 µs for each slice.
    return np.asarray(np.memmap(path, dtype=TOKEN_TYPES[token_type], mode="r"))


def allow_open_files(num_shards: int) -> None:
    """Raise the limit of open files, as a mapped one is, to what so many shards need.

    Raises:
        InputError: The system does not allow as many open files.
    """
    needed = OPEN_FILES_PER_SHARD * num_shards + OTHER_OPEN_FILES
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY or allowed >= needed:
        return
    if most != resource.RLIM_INFINITY and most < needed:
        raise InputError(
            f"{num_shards:,} shards need {needed:,} open files, and this system allows "
            f"{most:,} (`ulimit -Hn`): raise that, or make fewer shards "
            f"(download.shard_bytes in params.yaml)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))


class JoinedTokens:
    """The tokens of several files, one after another, read as if they were in one.

    >>> tokens = JoinedTokens([np.array([1, 2, 3]), np.array([4, 5])])
    >>> len(tokens), tokens[1:4].tolist()
    (5, [2, 3, 4])
    """

    def __init__(self, shards: Sequence[TokenIds]) -> None:
        self._shards = shards
        self._ends = [*accumulate(map(len, shards))]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, places: slice | NDArray[np.int64]) -> TokenIds:
        """Return a run of tokens, or the tokens at some places, counted from 0."""
        if isinstance(places, slice):
            return self._run(*places.indices(len(self)))
        tokens = np.empty(places.shape, dtype=self._shards[0].dtype)
        numbers = np.searchsorted(self._ends, places, side="right")
        for number in np.unique(numbers).tolist():
            is_here = numbers == number
            tokens[is_here] = self._shards[number][
                places[is_here] - self._start(number)
            ]
        return tokens

    def _run(self, first: int, end: int, step: int) -> TokenIds:
        """Return a run of tokens: a view of their file, unless they are in several."""
        assert step == 1, "tokens are read in their order"
        pieces = []
        while first < end:
            number = bisect_right(self._ends, first)
            start = self._start(number)
            piece = self._shards[number][first - start : end - start]
            pieces.append(piece)
            first += len(piece)
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate([self._shards[0][:0], *pieces])

    def _start(self, number: int) -> int:
        return self._ends[number] - len(self._shards[number])


# On disk, in one file or in several; only a slice of them is an array for certain.
Tokens = TokenIds | JoinedTokens


def largest_id(tokens: Tokens) -> int:
    """Return the largest of token ids that may not fit into memory; 0 of none."""
    pieces = range(0, len(tokens), TOKENS_AT_ONCE)
    return max(
        (int(tokens[first : first + TOKENS_AT_ONCE].max()) for first in pieces),
        default=0,
    )


def count_tokens(tokens: Tokens, vocab_size: int) -> NDArray[np.int64]:
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
