"""How much of the test split was seen in training: n-grams that both splits hold.

Each shard of the training split is searched alone for the n-grams of the test split,
and an n-gram was seen if it is in one of them.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from toygpt.data.engines.engine import Engine, Work
from toygpt.data.engines.tasks import Advance
from toygpt.data.file_records import FileRecord, check_in_worker
from toygpt.data.manifest import Manifest, open_tokens
from toygpt.data.token_files import Tokens, batched, map_tokens

# So few that their hashes stay in the processor's cache: twice as fast.
NGRAMS_AT_ONCE = 2**15
# Hashes of the training split that are sorted together: 32 MiB.
HASHES_AT_ONCE = 2**22
# Odd, and its bits look random: 2**64 divided by the golden ratio.
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class TokenFile(NamedTuple):
    """A file of tokens, and what decides its content."""

    path: str
    record: FileRecord
    token_type: str


def shared_ngram_fraction(
    directory: Path, splits: Manifest, engine: Engine, *, length: int
) -> float:
    """Return the share of the test split's n-grams that training has seen.

    Text that leaks from one split to the other makes the test look easier than it is.
    Equal n-grams are recognised by a 64-bit hash; an n-gram that spans two documents
    counts neither way. Memory grows with the test split alone: here by up to 32 bytes
    for each of its n-grams, in a worker by about one. The hashes, of 8 bytes, are in a
    file, which all workers on a machine map into memory.
    """
    end_of_text_id = splits.end_of_text_id
    test = open_tokens(directory, splits, "test")
    wanted, counts = sorted_hashes(test, length=length, end_of_text_id=end_of_text_id)
    if not len(wanted):
        return 0.0
    search = partial(
        search_file, wanted=wanted, length=length, end_of_text_id=end_of_text_id
    )
    files = {name: splits.files[name] for name in splits.files_of("train")}
    found = engine.map(
        search,
        [
            Work(
                name,
                TokenFile(str(directory / name), record, splits.token_type),
                record.bytes,
            )
            for name, record in files.items()
        ],
        description="search for leaks",
    )
    is_shared = np.zeros(-(-len(wanted) // 8), dtype=np.uint8)
    for bits in found:
        is_shared |= np.frombuffer(b64decode(bits), dtype=np.uint8)
    return share_of(is_shared, counts)


def search_file(
    file: TokenFile,
    directory: Path,
    advance: Advance,
    *,
    wanted: NDArray[np.uint64],
    length: int,
    end_of_text_id: int,
) -> str:
    """Search a file of tokens for n-grams; no file is written.

    Returns:
        What `find_ngrams` does, in Base64.

    Raises:
        InputError: The file is not what `split` wrote.
    """
    path = Path(file.path)
    check_in_worker(path, file.record, made_by="split")
    train = map_tokens(path, token_type=file.token_type)
    is_shared = find_ngrams(wanted, train, length=length, end_of_text_id=end_of_text_id)
    advance(train.nbytes)
    return b64encode(is_shared.tobytes()).decode()


def sorted_hashes(
    tokens: Tokens, *, length: int, end_of_text_id: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the hashes of all n-grams, sorted, and how often each occurs."""
    hashes = np.concatenate(
        [np.empty(0, np.uint64), *_ngram_hashes(tokens, length, end_of_text_id)]
    )
    hashes.sort()
    starts = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
    return hashes[starts], np.diff(starts, append=len(hashes))


def find_ngrams(
    wanted: NDArray[np.uint64], train: Tokens, *, length: int, end_of_text_id: int
) -> NDArray[np.uint8]:
    """Return a bit for each of some sorted hashes: whether it is an n-gram's of train.

    Memory grows by these bits alone, and `wanted` may be a file in memory.
    """
    is_shared = np.zeros(-(-len(wanted) // 8), dtype=np.uint8)
    seen_in_train = filter(len, _ngram_hashes(train, length, end_of_text_id))
    for batch in batched(seen_in_train, size=HASHES_AT_ONCE):
        seen = np.concatenate(batch)
        # Sorted, they are found ten times as fast: the next one is near the last.
        seen.sort()
        if len(wanted) <= len(seen):  # the fewer are looked for among the more
            places = np.searchsorted(seen, wanted)
            is_shared |= np.packbits(seen.take(places, mode="clip") == wanted)
            continue
        places = np.searchsorted(wanted, seen)
        found = places[wanted.take(places, mode="clip") == seen]
        # The first of eight is the highest bit.
        np.bitwise_or.at(is_shared, found >> 3, (128 >> (found & 7)).astype(np.uint8))
    return is_shared


def share_of(is_shared: NDArray[np.uint8], counts: NDArray[np.int64]) -> float:
    """Return the share of all n-grams whose bit is set, each as often as it occurs."""
    bits = np.unpackbits(is_shared, count=len(counts)).astype(bool)
    return int(counts[bits].sum()) / int(counts.sum())


def _ngram_hashes(
    tokens: Tokens, length: int, end_of_text_id: int
) -> Iterator[NDArray[np.uint64]]:
    """Yield a hash of every run of `length` tokens within one document."""
    for start in range(0, len(tokens) - length + 1, NGRAMS_AT_ONCE):
        piece = tokens[start : start + NGRAMS_AT_ONCE + length - 1]
        ids = piece.astype(np.uint64)
        num_ngrams = len(piece) - length + 1
        hashes = np.zeros(num_ngrams, dtype=np.uint64)
        for place in range(length):  # Horner's rule: a polynomial, modulo 2**64
            hashes *= MULTIPLIER
            hashes += ids[place : place + num_ngrams]
        num_ends = np.append(0, np.cumsum(piece == end_of_text_id))
        yield hashes[num_ends[length:] == num_ends[:-length]]
