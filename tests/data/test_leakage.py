"""The leakage metric: the n-grams of the test split that training has seen, too."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toygpt.data import leakage
from toygpt.data.leakage import shared_ngram_fraction
from toygpt.data.token_files import JoinedTokens

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
    train=few_tokens,
    length=st.integers(1, 4),
    at_once=st.integers(1, 9),
    cut=st.integers(0, 40),
)
def test_the_shared_ngrams_are_those_that_a_slow_search_finds(
    test: list[int], train: list[int], length: int, at_once: int, cut: int
) -> None:
    """However few are hashed, or sorted, at once, and in however many shards."""
    seen = set(ngrams(train, length))
    wanted = ngrams(test, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leakage, "NGRAMS_AT_ONCE", at_once)
        patch.setattr(leakage, "HASHES_AT_ONCE", at_once)
        fraction = shared_ngram_fraction(
            JoinedTokens(np.split(np.array(test, dtype=np.uint16), [cut])),
            JoinedTokens(np.split(np.array(train, dtype=np.uint16), [cut, cut + 1])),
            length=length,
            end_of_text_id=END_OF_TEXT,
        )

    share = sum(ngram in seen for ngram in wanted) / max(1, len(wanted))
    assert fraction == pytest.approx(share)


def test_a_copy_is_shared_wholly_and_other_text_not_at_all() -> None:
    """Also if hashes of many long runs are compared: no two collide."""
    random = np.random.default_rng(1)
    train, other = random.integers(1, 60_000, (2, 50_000), dtype=np.uint16)

    for test, share in ((train[5_000:6_000], 1.0), (other, 0.0)):
        assert share == shared_ngram_fraction(
            test, train, length=13, end_of_text_id=END_OF_TEXT
        )
