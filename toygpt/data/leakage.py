"""How much of the test split was seen in training: n-grams that both hold."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from toygpt.data.token_files import TokenIds

# So few that what is computed of them stays in the processor's cache: twice as fast.
NGRAMS_AT_ONCE = 2**15
# Bits of a filter for each number that it lets pass; and the most bits that there are,
# as a power of two: 128 MiB.
BITS_PER_NUMBER = 32
MAX_FILTER_BITS = 30


def shared_ngram_fraction(
    test: TokenIds, train: TokenIds, *, length: int, end_of_text_id: int
) -> float:
    """Return the share of the test split's n-grams that training has seen.

    What leaks from one split to the other makes the test look easier than it is. Equal
    n-grams are recognised by a 64-bit hash; one that spans two documents counts
    neither way. Memory grows with the test split alone.
    """
    wanted = np.concatenate(
        [*_ngram_hashes(test, length, end_of_text_id), np.empty(0, np.uint64)]
    )
    if not len(wanted):
        return 0.0
    wanted.sort()
    wanted_filter = _Filter(wanted)
    is_shared = np.zeros(len(wanted), dtype=bool)  # of equal ones, the first
    for hashes in _ngram_hashes(train, length, end_of_text_id):
        candidates = hashes[wanted_filter.lets_pass(hashes)]
        found = np.searchsorted(wanted, candidates).clip(max=len(wanted) - 1)
        is_shared[found[wanted[found] == candidates]] = True
    is_first = np.append(True, wanted[1:] != wanted[:-1])
    occurrences = np.diff(np.flatnonzero(is_first), append=len(wanted))
    return float(occurrences[is_shared[is_first]].sum() / len(wanted))


class _Filter:
    """Lets some numbers pass, and hardly any other: it looks at their first bits alone.

    One look at a table takes a tenth of a search among sorted numbers, and most of what
    training has seen need not be searched for.
    """

    def __init__(self, numbers: NDArray[np.uint64]) -> None:
        num_bits = (BITS_PER_NUMBER * len(numbers)).bit_length()
        self._shift = np.uint64(64 - min(MAX_FILTER_BITS, num_bits))
        self._table = np.zeros(2 ** (64 - int(self._shift) - 3), dtype=np.uint8)
        byte, bit = self._places(numbers)
        np.bitwise_or.at(self._table, byte, bit)

    def lets_pass(self, numbers: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Say of each number whether it passes."""
        byte, bit = self._places(numbers)
        return (self._table[byte] & bit) != 0

    def _places(
        self, numbers: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return where in the table the bit of each number is: byte, and bit."""
        places = numbers >> self._shift
        byte = (places >> np.uint64(3)).view(np.int64)
        return byte, np.uint8(1) << (places & np.uint64(7)).astype(np.uint8)


def _ngram_hashes(
    tokens: TokenIds, length: int, end_of_text_id: int
) -> Iterator[NDArray[np.uint64]]:
    """Yield a hash of every run of `length` tokens within one document."""
    for start in range(0, len(tokens) - length + 1, NGRAMS_AT_ONCE):
        piece = tokens[start : start + NGRAMS_AT_ONCE + length - 1]
        num_ngrams = len(piece) - length + 1
        within_document = np.ones(num_ngrams, dtype=bool)
        ends = np.flatnonzero(piece == end_of_text_id)
        starts = (ends[:, None] - np.arange(length)).ravel()
        within_document[starts[(starts >= 0) & (starts < num_ngrams)]] = False
        yield _hashes(piece.astype(np.uint64), length)[within_document]


def _hashes(tokens: NDArray[np.uint64], length: int) -> NDArray[np.uint64]:
    """Return a hash of every run of `length` tokens, made of those of its halves."""
    if length == 1:
        return _mixed(tokens, tokens)
    num_runs, half = len(tokens) - length + 1, length // 2
    halves = _hashes(tokens, half)
    hashes = _mixed(halves[:num_runs], halves[half : half + num_runs])
    if length % 2:
        return _mixed(hashes, tokens[length - 1 :])
    return hashes


def _mixed(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return numbers that depend on every bit of two, and on their order."""
    mixed = one * np.uint64(0x9E3779B97F4A7C15)  # odd, and its bits look random
    mixed ^= mixed >> np.uint64(29)
    mixed += other
    mixed *= np.uint64(0xBF58476D1CE4E5B9)  # so is this one, of splitmix64
    mixed ^= mixed >> np.uint64(32)
    return mixed
