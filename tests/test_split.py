"""The split: groups stay whole, stay put, and leave no token behind."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from toygpt.data.split import (
    NGRAMS_AT_ONCE,
    SPLITS,
    shared_ngram_fraction,
    split_of_group,
    write_splits,
)
from toygpt.data.token_files import Part

END_OF_TEXT = 0
# How many bytes of text each token id stands for: none for the end of a document.
BYTES_OF_TOKEN = np.arange(1000, dtype=np.int64) % 10

property_test = settings(max_examples=60)
group_names = st.text(max_size=3)
token_lists = st.lists(st.integers(1, 499), max_size=4)
corpora = st.lists(st.tuples(group_names, token_lists), max_size=20)
fractions = st.floats(0.05, 0.45)

Corpus = list[tuple[str, list[int]]]


def deal(
    corpus: Corpus,
    directory: Path,
    *,
    key: int = 9,
    validation_fraction: float = 0.3,
    test_fraction: float = 0.3,
) -> dict[str, Part]:
    """Split a corpus of groups and token ids as the stage does."""
    documents = [np.array(token_ids, dtype="<u2") for _, token_ids in corpus]
    ends = np.cumsum([len(document) for document in documents], dtype=np.uint64)
    return write_splits(
        np.concatenate([*documents, np.empty(0, "<u2")]),
        ends,
        [
            split_of_group(
                group,
                key=key,
                validation_fraction=validation_fraction,
                test_fraction=test_fraction,
            )
            for group, _ in corpus
        ],
        directory,
        BYTES_OF_TOKEN,
    )


def read(directory: Path) -> dict[str, list[int]]:
    """Return the token ids of each split."""
    return {
        name: np.fromfile(directory / f"{name}.bin", dtype="<u2").tolist()
        for name in SPLITS
    }


def split_of_each(num_groups: int, **choices: float) -> list[str]:
    """Return the splits of many groups, a few of them held out."""
    key = int(choices.pop("key", 9))
    chosen = {"validation_fraction": 0.08, "test_fraction": 0.08} | choices
    return [
        split_of_group(f"group {number}", key=key, **chosen)
        for number in range(num_groups)
    ]


def test_the_split_of_a_group_is_settled_for_good() -> None:
    """A change here moves text from one split to the other in everybody's project."""
    expected = {
        "asyncio": "train",
        "ctypes": "test",
        "email": "validation",
        "json": "test",
        "logging": "train",
        "tkinter": "validation",
        "é": "train",
    }

    dealt = {
        group: split_of_group(group, key=9, validation_fraction=0.3, test_fraction=0.3)
        for group in expected
    }

    assert dealt == expected


def test_each_split_gets_about_its_share() -> None:
    splits = split_of_each(10_000, validation_fraction=0.1, test_fraction=0.2)

    shares = {name: count / 10_000 for name, count in Counter(splits).items()}

    assert shares == pytest.approx(
        {"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.015
    )


def test_another_key_deals_anew() -> None:
    """As if the first deal had not been: a third of the test split stays in it."""
    fractions = {"validation_fraction": 1 / 3, "test_fraction": 1 / 3}
    first = split_of_each(3_000, key=1, **fractions)

    second = split_of_each(3_000, key=2, **fractions)

    stayed = sum(a == b for a, b in zip(first, second, strict=True))
    assert 900 < stayed < 1_100


@pytest.mark.parametrize("key", [0, 2**64 - 1])
def test_the_smallest_and_the_largest_key_deal_as_well(key: int) -> None:
    splits = split_of_each(500, key=key)

    assert set(splits) == set(SPLITS)


def test_holding_out_more_to_validate_takes_it_from_training_alone() -> None:
    before = split_of_each(2_000, validation_fraction=0.1)

    after = split_of_each(2_000, validation_fraction=0.2)

    moves = {(a, b) for a, b in zip(before, after, strict=True) if a != b}
    assert moves == {("train", "validation")}


def test_a_group_that_is_not_unicode_has_a_split() -> None:
    split = split_of_group("\ud800", key=9, validation_fraction=0.3, test_fraction=0.3)

    assert split in SPLITS


@property_test
@given(corpus=corpora, key=st.integers(0, 2**64 - 1), fraction=fractions)
def test_every_token_lands_in_exactly_one_split_and_order_is_kept(
    tmp_path_factory: pytest.TempPathFactory,
    corpus: Corpus,
    key: int,
    fraction: float,
) -> None:
    """Each token is made unlike all others: numbered in the order of the corpus."""
    directory = tmp_path_factory.mktemp("splits")
    numbers = iter(range(1000))
    numbered = [(group, [next(numbers) for _ in ids]) for group, ids in corpus]

    deal(
        numbered,
        directory,
        key=key,
        validation_fraction=fraction,
        test_fraction=fraction,
    )

    splits = read(directory)
    everything = [token for split in splits.values() for token in split]
    assert sorted(everything) == [token for _, ids in numbered for token in ids]
    assert all(split == sorted(split) for split in splits.values())


@property_test
@given(corpus=corpora)
def test_no_group_is_torn_across_splits(
    tmp_path_factory: pytest.TempPathFactory, corpus: Corpus
) -> None:
    """Each token is made to say which group it comes from."""
    directory = tmp_path_factory.mktemp("splits")
    groups = sorted({group for group, _ in corpus})
    marked = [(group, [groups.index(group)] * len(ids)) for group, ids in corpus]

    deal(marked, directory)

    splits = [set(split) for split in read(directory).values()]
    assert sum(map(len, splits)) == len(set().union(*splits))


@property_test
@given(
    corpus=st.lists(
        st.tuples(group_names, token_lists, st.booleans()), min_size=1, max_size=20
    )
)
def test_adding_documents_moves_none(
    tmp_path_factory: pytest.TempPathFactory,
    corpus: list[tuple[str, list[int], bool]],
) -> None:
    """Whatever is added, and where: each split keeps what it had, in the same order."""
    is_new = 500  # added to the ids of new documents, to tell them from the old
    old = [(group, ids) for group, ids, added in corpus if not added]
    grown = [
        (group, [token + is_new * added for token in ids])
        for group, ids, added in corpus
    ]
    before, after = tmp_path_factory.mktemp("before"), tmp_path_factory.mktemp("after")

    deal(old, before)
    deal(grown, after)

    kept = {
        name: [token for token in tokens if token < is_new]
        for name, tokens in read(after).items()
    }
    assert kept == read(before)


@property_test
@given(corpus=corpora)
def test_what_each_split_got_is_counted(
    tmp_path_factory: pytest.TempPathFactory, corpus: Corpus
) -> None:
    directory = tmp_path_factory.mktemp("splits")

    parts = deal(corpus, directory)

    splits = read(directory)
    assert list(parts) == list(SPLITS)
    for name, part in parts.items():
        assert part.tokens == len(splits[name])
        assert part.bytes == sum(token % 10 for token in splits[name])
    assert sum(part.documents for part in parts.values()) == len(corpus)


@property_test
@given(corpus=corpora, at_once=st.integers(1, 5))
def test_documents_too_long_to_be_copied_at_once_are_copied_whole(
    tmp_path_factory: pytest.TempPathFactory, corpus: Corpus, at_once: int
) -> None:
    directory = tmp_path_factory.mktemp("splits")
    expected = deal(corpus, directory), read(directory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toygpt.data.split.TOKENS_AT_ONCE", at_once)
        parts = deal(corpus, directory)

    assert (parts, read(directory)) == expected


@pytest.mark.parametrize("num_splits", [1, 3])
def test_documents_and_their_groups_must_be_as_many(
    tmp_path: Path, num_splits: int
) -> None:
    """Documents of one download with the tokens of another would be dealt askew."""
    tokens = np.array([1, 0, 2, 0], dtype=np.uint16)
    ends = np.array([2, 4], dtype=np.uint64)

    with pytest.raises(ValueError, match="zip"):
        write_splits(tokens, ends, ["train"] * num_splits, tmp_path, BYTES_OF_TOKEN)


def ngrams(tokens: list[int], length: int) -> list[tuple[int, ...]]:
    """Return the runs of tokens that lie within one document, the slow way."""
    runs = [
        tuple(tokens[start : start + length])
        for start in range(len(tokens) - length + 1)
    ]
    return [run for run in runs if END_OF_TEXT not in run]


few_tokens = st.lists(st.integers(0, 3), max_size=40)


@settings(max_examples=200)
@given(test=few_tokens, train=few_tokens, length=st.integers(1, 4))
def test_the_shared_ngrams_are_those_that_a_slow_search_finds(
    test: list[int], train: list[int], length: int
) -> None:
    seen = set(ngrams(train, length))
    wanted = ngrams(test, length)

    fraction = shared_ngram_fraction(
        np.array(test, dtype=np.uint16),
        np.array(train, dtype=np.uint16),
        length=length,
        end_of_text_id=END_OF_TEXT,
    )

    share = sum(ngram in seen for ngram in wanted) / max(1, len(wanted))
    assert fraction == pytest.approx(share)


def random_tokens(num_tokens: int, *, seed: int) -> NDArray[np.uint16]:
    random = np.random.default_rng(seed)
    return random.integers(1, 60_000, num_tokens, dtype=np.uint16)


def test_a_test_that_was_copied_from_training_is_shared_wholly() -> None:
    train = random_tokens(10_000, seed=1)

    fraction = shared_ngram_fraction(
        train[5_000:6_000], train, length=13, end_of_text_id=END_OF_TEXT
    )

    assert fraction == 1.0


def test_texts_that_have_nothing_in_common_share_nothing() -> None:
    """Also if hashes of many long runs are compared: no two fall together by chance."""
    fraction = shared_ngram_fraction(
        random_tokens(50_000, seed=1),
        random_tokens(50_000, seed=2),
        length=13,
        end_of_text_id=END_OF_TEXT,
    )

    assert fraction == 0.0


def test_the_order_of_the_tokens_makes_the_ngram() -> None:
    forwards = np.array([1, 2, 3, 4], dtype=np.uint16)

    fraction = shared_ngram_fraction(
        forwards, forwards[::-1], length=4, end_of_text_id=END_OF_TEXT
    )

    assert fraction == 0.0


def test_the_share_is_the_same_however_much_is_to_be_looked_for() -> None:
    """A table of bits that grows with the test split lets no n-gram slip through."""
    train = random_tokens(60_000, seed=1)
    for num_tokens in (13, 100, 3_000, 50_000):
        half = random_tokens(num_tokens, seed=2)
        half[0] = END_OF_TEXT

        fraction = shared_ngram_fraction(
            np.append(train[:num_tokens], half),
            train,
            length=13,
            end_of_text_id=END_OF_TEXT,
        )

        num_shared = num_tokens - 12
        num_others = max(0, num_tokens - 1 - 12)
        assert fraction == num_shared / (num_shared + num_others)


@pytest.mark.parametrize("place", [-2, -1, 0])
def test_no_ngram_is_lost_where_long_texts_are_cut(place: int) -> None:
    """Texts are looked at piece by piece; this one straddles the first cut."""
    train = np.ones(NGRAMS_AT_ONCE + 10, dtype=np.uint16)
    train[NGRAMS_AT_ONCE + place : NGRAMS_AT_ONCE + place + 2] = 5, 7

    fraction = shared_ngram_fraction(
        np.array([5, 7], dtype=np.uint16), train, length=2, end_of_text_id=END_OF_TEXT
    )

    assert fraction == 1.0
