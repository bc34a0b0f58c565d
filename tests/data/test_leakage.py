"""The leakage metric: the n-grams of the test split that training has seen, too."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from toygpt.data import leakage
from toygpt.data.leakage import find_ngrams, sorted_hashes

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


def shared_ngrams(test: Any, shards: Sequence[Any], length: int) -> NDArray[np.bool_]:
    """Return whether each n-gram of the test is in one of the shards."""
    how = {"length": length, "end_of_text_id": END_OF_TEXT}
    wanted = sorted_hashes(np.array(test, dtype=np.uint16), **how)
    is_shared = np.zeros(len(wanted), dtype=bool)
    for shard in shards:
        is_shared |= find_ngrams(wanted, np.array(shard, dtype=np.uint16), **how)
    return is_shared


def test_a_copy_is_shared_wholly_and_other_text_not_at_all() -> None:
    """Also if hashes of many long runs are compared: no two collide."""
    random = np.random.default_rng(1)
    train, other = random.integers(1, 60_000, (2, 50_000), dtype=np.uint16)

    for test, share in ((train[5_000:6_000], 1.0), (other, 0.0)):
        assert shared_ngrams(test, [train], 13).mean() == share
