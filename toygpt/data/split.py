"""Hold text out: some groups to watch training by, some to judge the result by."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toygpt.data.token_files import TOKENS_AT_ONCE, Part, TokenIds

SPLITS = ("train", "validation", "test")


def split_of_group(
    group: str, *, key: int, validation_fraction: float, test_fraction: float
) -> str:
    """Return the split that a group belongs to, whatever other groups there are.

    A keyed hash of the name is as good as a die, and falls the same way each time: new
    documents move no old ones, and the documents of one group stay together.
    """
    digest = hashlib.blake2b(
        group.encode("utf-8", errors="surrogatepass"),
        digest_size=8,
        key=key.to_bytes(8, "little"),
    ).digest()
    position = int.from_bytes(digest, "little") / 2**64
    if position < test_fraction:
        return "test"
    if position < test_fraction + validation_fraction:
        return "validation"
    return "train"


def write_splits(
    tokens: TokenIds,
    ends: NDArray[np.uint64],
    split_of_document: Iterable[str],
    directory: Path,
    bytes_of_token: NDArray[np.int64],
) -> dict[str, Part]:
    """Copy each document to the file of its split, in the order of the corpus.

    Args:
        tokens: The token ids of all documents, one after another.
        ends: One past the last token of each document.
        split_of_document: The split of each document.
        directory: Where train.bin, validation.bin and test.bin are written.
        bytes_of_token: How many bytes of text each token id stands for.
    """
    num_tokens: Counter[str] = Counter()
    num_documents: Counter[str] = Counter()
    num_bytes: Counter[str] = Counter()
    with ExitStack() as stack:
        files = {
            name: stack.enter_context((directory / f"{name}.bin").open("wb"))
            for name in SPLITS
        }
        start = 0
        for end, split in zip(ends.tolist(), split_of_document, strict=True):
            document = tokens[start:end]
            files[split].write(document.tobytes())
            num_tokens[split] += len(document)
            num_documents[split] += 1
            num_bytes[split] += int(bytes_of_token[document].sum())
            start = end
    return {
        name: Part(num_tokens[name], num_documents[name], num_bytes[name])
        for name in SPLITS
    }


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
    distinct, occurrences = np.unique(wanted, return_counts=True)
    if not len(distinct):
        return 0.0
    is_shared = np.zeros(len(distinct), dtype=bool)
    for hashes in _ngram_hashes(train, length, end_of_text_id):
        place = np.searchsorted(distinct, hashes).clip(max=len(distinct) - 1)
        is_shared[place[distinct[place] == hashes]] = True
    return float(occurrences[is_shared].sum() / occurrences.sum())


def _ngram_hashes(
    tokens: TokenIds, length: int, end_of_text_id: int
) -> Iterator[NDArray[np.uint64]]:
    """Yield a hash of every run of `length` tokens within one document."""
    multiplier = np.uint64(0x9E3779B97F4A7C15)  # odd, and its bits look random
    for start in range(0, len(tokens) - length + 1, TOKENS_AT_ONCE):
        piece = np.asarray(
            tokens[start : start + TOKENS_AT_ONCE + length - 1], dtype=np.uint64
        )
        num_ngrams = len(piece) - length + 1
        hashes = np.zeros(num_ngrams, dtype=np.uint64)
        spans_documents = np.zeros(num_ngrams, dtype=bool)
        for offset in range(length):
            token = piece[offset : offset + num_ngrams]
            hashes = (hashes ^ token) * multiplier
            hashes ^= hashes >> np.uint64(29)
            spans_documents |= token == end_of_text_id
        yield hashes[~spans_documents]
