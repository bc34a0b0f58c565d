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

from toygpt.data.engines import Engine, Work
from toygpt.data.manifest import Manifest, open_tokens
from toygpt.data.tasks import Advance
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
    sha256: str
    token_type: str


def shared_ngram_fraction(
    directory: Path, splits: Manifest, engine: Engine, *, length: int
) -> float:
    """Return the share of the test split's n-grams that training has seen.

    Text that leaks from one split to the other makes the test look easier than it is.
    Equal n-grams are recognised by a 64-bit hash; an n-gram that spans two documents
    counts neither way. Memory grows with the test split alone.

    Args:
        directory: The folder of the splits.
        splits: Their manifest.
        engine: Searches the shards of the training split.
        length: Tokens in an n-gram.
    """
    end_of_text_id = splits.end_of_text_id
    test = open_tokens(directory, splits, "test")
    wanted = sorted_hashes(test, length=length, end_of_text_id=end_of_text_id)
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
                TokenFile(str(directory / name), record.sha256, splits.token_type),
                record.bytes,
            )
            for name, record in files.items()
        ],
        directory,
        description="search for leaks",
    )
    is_shared = np.zeros(len(wanted), dtype=bool)
    for bits in map(b64decode, found):
        packed = np.frombuffer(bits, dtype=np.uint8)
        is_shared |= np.unpackbits(packed, count=len(wanted)).astype(bool)
    return int(is_shared.sum()) / len(wanted)


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
        A bit for each n-gram that is wanted, in Base64: whether the file has it.
    """
    train = map_tokens(Path(file.path), token_type=file.token_type)
    is_shared = find_ngrams(wanted, train, length=length, end_of_text_id=end_of_text_id)
    advance(train.nbytes)
    return b64encode(np.packbits(is_shared).tobytes()).decode()


def sorted_hashes(
    tokens: Tokens, *, length: int, end_of_text_id: int
) -> NDArray[np.uint64]:
    """Return the hashes of all n-grams, sorted."""
    hashes = np.concatenate(
        [np.empty(0, np.uint64), *_ngram_hashes(tokens, length, end_of_text_id)]
    )
    # Sorted numbers are searched for ten times as fast: the next one is near the last.
    hashes.sort()
    return hashes


def find_ngrams(
    wanted: NDArray[np.uint64], train: Tokens, *, length: int, end_of_text_id: int
) -> NDArray[np.bool_]:
    """Return for each of some sorted hashes whether it is that of an n-gram of train.

    Memory grows with the number of hashes alone.
    """
    is_shared = np.zeros(len(wanted), dtype=bool)
    seen_in_train = filter(len, _ngram_hashes(train, length, end_of_text_id))
    # As many at once as are wanted: otherwise a large test split is searched too often.
    for batch in batched(seen_in_train, size=max(HASHES_AT_ONCE, len(wanted))):
        seen = np.concatenate(batch)
        seen.sort()
        places = np.searchsorted(seen, wanted)
        is_shared |= seen.take(places, mode="clip") == wanted
    return is_shared


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
