"""How fast is a core at what the stages do for each byte, token or block?

The loops are the project's own, on random tokens that the memory of any machine holds:
the disk is not what is measured.
"""

from __future__ import annotations

import hashlib
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from toygpt.data.batches import TrainingBatches
from toygpt.data.chunks import KNOWN
from toygpt.data.gathering import cuts, lengths_of_distinct
from toygpt.data.leakage import find_ngrams, share_of, sorted_hashes
from toygpt.data.split import assign_splits
from toygpt.data.token_files import JoinedTokens, TokenIds, map_tokens
from toygpt.pipeline.files import sha256_of

VOCAB_SIZE = 50_257
NUM_SHARDS = 16
BLOCK_SIZE = 512
SHARD_BYTES = 10**15  # so many that random lengths are few shards
BATCH_SIZE = 64
BATCHES = 100
TEST_TOKENS = 100_000
NGRAM_LENGTH = 13
DOCUMENTS_PER_GROUP = 12
ROUNDS = 3

# What the rates are called in their table, where the plan finds them.
SHA256 = "SHA-256, GB/s"
MD5 = "MD5, as DVC has it, GB/s"
LEAKAGE = "n-grams of training compared with the test's, M tokens/s"
ONE_FILE = "blocks read from one file, thousands/s"
JOINED = f"blocks read from {NUM_SHARDS} shards, thousands/s"
ASSIGNED = "split: memory of a document, bytes"
KNOWN_AGAIN = "download: memory of a document, bytes"
COMPARED = "download: memory of a digest that is compared, bytes"
COMPARING = "download: documents whose digests are compared, M/s"
ASSIGNING = "split: documents that are assigned, M/s"
DOCUMENTS_RATIO = "documents on disk, of the bytes of their text"


def measure(
    *, num_tokens: int = 100_000_000, num_documents: int = 1_000_000
) -> dict[str, float]:
    """Return the rates by their names, which have the units."""
    random = np.random.default_rng(0)
    tokens = random.integers(1, VOCAB_SIZE, num_tokens, dtype=np.uint16)
    with TemporaryDirectory() as folder:
        shards = []
        for number, piece in enumerate(np.array_split(tokens, NUM_SHARDS)):
            path = Path(folder) / f"{number}.bin"
            piece.tofile(path)
            shards.append(map_tokens(path, token_type="uint16"))
        whole = Path(folder) / "whole.bin"
        tokens.tofile(whole)
        size = whole.stat().st_size
        return {
            SHA256: per_second(size, lambda: sha256_of(whole)) / 1e9,
            MD5: per_second(size, lambda: md5_of(whole)) / 1e9,
            LEAKAGE: per_second(
                num_tokens / 10, lambda: leakage(tokens[: num_tokens // 10])
            )
            / 1e6,
            ONE_FILE: blocks_per_second(map_tokens(whole, token_type="uint16")),
            JOINED: blocks_per_second(JoinedTokens(shards)),
            ASSIGNED: peak_of(assign_random, num_documents),
            ASSIGNING: per_second(num_documents, lambda: assign_random(num_documents))
            / 1e6,
            # In as many parts as a large corpus has; and in one.
            KNOWN_AGAIN: peak_of(compare_random, num_documents),
            COMPARED: peak_of(partial(compare_random, num_parts=1), num_documents),
            COMPARING: per_second(num_documents, lambda: compare_random(num_documents))
            / 1e6,
        }


def per_second(amount: float, work: Callable[[], object]) -> float:
    """Return how much is done in a second, in the fastest of some rounds.

    Other load makes a round slower, and nothing makes it faster.
    """
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return amount / min(taken)


def md5_of(path: Path) -> str:
    """Return the digest that DVC knows a file by."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def leakage(train: TokenIds) -> float:
    """Look for the n-grams of a small test in a text."""
    how = {"length": NGRAM_LENGTH, "end_of_text_id": 0}
    wanted, counts = sorted_hashes(train[:TEST_TOKENS], **how)
    return share_of(find_ngrams(wanted, train, **how), counts)


def blocks_per_second(tokens: TokenIds | JoinedTokens) -> float:
    """Return how many thousands of blocks a second become batches, in random order."""
    batches = TrainingBatches(
        tokens, block_size=BLOCK_SIZE, batch_size=BATCH_SIZE, seed=0
    )
    batches.sequences(0)

    def read() -> None:
        for step in range(BATCHES):
            batches.sequences(step)

    return per_second(BATCHES * BATCH_SIZE, read) / 1e3


def peak_of(work: Callable[[int], object], num_documents: int) -> float:
    """Return the memory that some work needs for each document of a corpus."""
    tracemalloc.start()
    work(num_documents)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / num_documents


def assign_random(num_documents: int) -> None:
    """Assign documents to splits, as `split` does between its work on shards."""
    groups = np.random.default_rng(1).integers(
        2**63, size=num_documents // DOCUMENTS_PER_GROUP + 1, dtype=np.uint64
    )
    assign_splits(
        np.empty(0, np.uint16),
        np.random.default_rng(0).integers(500, 2_000, num_documents).cumsum(),
        np.repeat(groups, DOCUMENTS_PER_GROUP)[:num_documents],
        validation_fraction=0.01,
        test_fraction=0.01,
        bytes_of_token=[],
    )


def compare_random(num_documents: int, *, num_parts: int = NUM_SHARDS) -> None:
    """Compare digests, as `download` does between reading and writing."""
    random = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        files = [Path(folder) / str(number) for number in range(NUM_SHARDS)]
        for file in files:
            file.write_bytes(random.bytes(num_documents // NUM_SHARDS * KNOWN.itemsize))
        at_once = num_documents // num_parts + 1
        cuts(lengths_of_distinct(files, at_once=at_once), SHARD_BYTES)
