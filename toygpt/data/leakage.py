"""How much of the test split was seen in training: n-grams that both splits hold."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from toygpt.data.token_files import Tokens, batched

# So few that their hashes stay in the processor's cache: twice as fast.
NGRAMS_AT_ONCE = 2**15
# Hashes of the training split that are sorted together: 32 MiB.
HASHES_AT_ONCE = 2**22
# Odd, and its bits look random: 2**64 divided by the golden ratio.
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def shared_ngram_fraction(
    test: Tokens, train: Tokens, *, length: int, end_of_text_id: int
) -> float:
    """Return the share of the test split's n-grams that training has seen.

    Text that leaks from one split to the other makes the test look easier than it is.
    Equal n-grams are recognised by a 64-bit hash; an n-gram that spans two documents
    counts neither way. Memory grows with the test split alone.
    """
    wanted = np.concatenate(
        [np.empty(0, np.uint64), *_ngram_hashes(test, length, end_of_text_id)]
    )
    if not len(wanted):
        return 0.0
    # Sorted numbers are searched for ten times as fast: the next one is near the last.
    wanted.sort()
    is_shared = np.zeros(len(wanted), dtype=bool)
    seen_in_train = filter(len, _ngram_hashes(train, length, end_of_text_id))
    # As many at once as are wanted: otherwise a large test split is searched too often.
    for batch in batched(seen_in_train, size=max(HASHES_AT_ONCE, len(wanted))):
        seen = np.concatenate(batch)
        seen.sort()
        places = np.searchsorted(seen, wanted)
        is_shared |= seen.take(places, mode="clip") == wanted
    return int(is_shared.sum()) / len(wanted)


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
