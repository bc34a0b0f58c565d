"""The leakage metric: the n-grams of the test split that training has seen, too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.tiny import runtime_params
from toygpt.data import file_records, leakage
from toygpt.data.engines.engine import Engine
from toygpt.data.file_records import record_files
from toygpt.data.leakage import find_ngrams, shared_ngram_fraction, sorted_hashes
from toygpt.data.manifest import Manifest, Part, write_manifest
from toygpt.pipeline.errors import InputError

END_OF_TEXT = 0


def ngrams(tokens: list[int], length: int) -> list[tuple[int, ...]]:
    """Return the runs of tokens that lie within one document, the slow way."""
    starts = range(len(tokens) - length + 1)
    runs = [tuple(tokens[start : start + length]) for start in starts]
    return [run for run in runs if END_OF_TEXT not in run]


few_tokens = st.lists(st.integers(0, 3), max_size=40)


@settings(max_examples=200)
@given(
    test=few_tokens,
    shards=st.lists(few_tokens, min_size=1, max_size=3),
    length=st.integers(1, 4),
    at_once=st.integers(1, 9),
)
def test_the_shared_ngrams_are_those_that_a_slow_search_finds(
    test: list[int], shards: list[list[int]], length: int, at_once: int
) -> None:
    """However few are hashed, or sorted, at once, and in any number of shards."""
    seen = {ngram for shard in shards for ngram in ngrams(shard, length)}
    wanted = ngrams(test, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leakage, "NGRAMS_AT_ONCE", at_once)
        patch.setattr(leakage, "HASHES_AT_ONCE", at_once)
        shared = shared_ngrams(test, shards, length)

    assert len(shared) == len(wanted)
    assert shared.sum() == sum(ngram in seen for ngram in wanted)


def shared_ngrams(test: Any, shards: Sequence[Any], length: int) -> NDArray[np.uint8]:
    """Return whether each n-gram of the test is in one of the shards."""
    how = {"length": length, "end_of_text_id": END_OF_TEXT}
    wanted, counts = sorted_hashes(np.array(test, dtype=np.uint16), **how)
    is_shared = np.zeros(-(-len(wanted) // 8), dtype=np.uint8)
    for shard in shards:
        is_shared |= find_ngrams(wanted, np.array(shard, dtype=np.uint16), **how)
    return np.repeat(np.unpackbits(is_shared, count=len(counts)), counts)


def test_a_copy_is_shared_wholly_and_other_text_not_at_all() -> None:
    """Also if hashes of many long runs are compared: no two collide."""
    random = np.random.default_rng(1)
    train, other = random.integers(1, 60_000, (2, 50_000), dtype=np.uint16)

    for test, share in ((train[5_000:6_000], 1.0), (other, 0.0)):
        assert shared_ngrams(test, [train], 13).mean() == share


@pytest.fixture
def splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """Write splits of two shards: train-00001.bin has half of the test."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(1)
    train, other = random.integers(1, 60_000, (2, 2_000), dtype=np.uint16)
    whole = {"test": [train[1_200:1_300], other[:100]], "train": np.split(train, 2)}
    parts = {}
    for name, shards in whole.items():
        for number, tokens in enumerate(shards):
            tokens.tofile(tmp_path / f"{name}-{number:05}.bin")
        parts[name] = Part(sum(map(len, shards)), 1, 1)
    return write_manifest(
        tmp_path,
        token_type="uint16",
        vocab_size=2**16,
        end_of_text_id=END_OF_TEXT,
        corpus_sha256="",
        tokenizer_sha256="",
        parts=parts,
        files=record_files(tmp_path, "*.bin"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_fraction_counts_what_any_shard_has(
    splits: Manifest, workers: int, tmp_path: Path
) -> None:
    """Here 88 of 188 runs of 13 tokens, twelve of which span both halves."""
    with Engine("split", runtime_params(data_workers=workers)) as engine:
        fraction = shared_ngram_fraction(tmp_path, splits, engine, length=13)

    assert fraction == 88 / 188


def test_a_file_that_was_damaged_is_not_searched(
    splits: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_records, "SECONDS_UNTIL_SHOWN", 0)
    path = tmp_path / "train-00001.bin"
    path.write_bytes(path.read_bytes()[:-2])

    with (
        pytest.raises(InputError, match=f"^{path} is damaged: 1,998 bytes instead"),
        Engine("split", runtime_params(data_workers=1)) as engine,
    ):
        shared_ngram_fraction(tmp_path, splits, engine, length=13)
