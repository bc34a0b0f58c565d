"""The split: shares come out as asked, groups stay put, and no token is lost."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.written import write_splits
from toygpt.data.manifest import Part
from toygpt.data.split import (
    SMALL_MULTIPLE,
    SPLITS,
    TOLERANCE,
    Assignment,
    assign_splits,
    hash_of_group,
)
from toygpt.data.token_files import TokenIds

END_OF_TEXT = 0
# How many bytes of text each token id stands for: none for the end of a document.
BYTES_OF_TOKEN = [b"x" * (token % 10) for token in range(1000)]

assign = partial(
    assign_splits,
    validation_fraction=0.08,
    test_fraction=0.08,
    bytes_of_token=BYTES_OF_TOKEN,
)

property_test = settings(max_examples=60)
fractions = st.floats(0.05, 0.3)

Corpus = list[tuple[str, list[int]]]


class Split(NamedTuple):
    assignment: Assignment
    parts: dict[str, Part]
    files: dict[str, list[int]]  # the token ids of each split

    @property
    def shares(self) -> dict[str, float]:
        """The share of all tokens that each split has."""
        whole = sum(map(len, self.files.values()))
        return {name: len(tokens) / whole for name, tokens in self.files.items()}


def split(
    corpus: Corpus, *, key: int = 9, borders: Sequence[int] = (), **changes: Any
) -> Split:
    """Split a corpus of groups and token ids as the stage does.

    New shards begin with the documents of the borders.
    """
    documents = [np.array([*ids, END_OF_TEXT], dtype="<u2") for _, ids in corpus]
    tokens: TokenIds = np.concatenate(documents)
    ends = np.cumsum([len(document) for document in documents])
    hashes = np.array([hash_of_group(it, key=key) for it, _ in corpus], np.uint64)
    assignment = assign(tokens, ends, hashes, **changes)
    bytes_of_token: Sequence[bytes] = changes.get("bytes_of_token", BYTES_OF_TOKEN)
    lengths = np.array([len(piece) for piece in bytes_of_token])
    shards = np.split(tokens, [int(ends[border - 1]) for border in borders])
    with TemporaryDirectory() as folder:
        parts = write_splits(shards, assignment, Path(folder), lengths, END_OF_TEXT)
        files = {
            name: [
                token
                for path in sorted(Path(folder).glob(f"{name}*.bin"))
                for token in np.fromfile(path, dtype="<u2").tolist()
            ]
            for name in SPLITS
        }
    return Split(assignment, parts, files)


def folders(*sizes: int, documents: int = 1) -> Corpus:
    """Return groups of so many tokens each, in documents of the same length.

    Each token says which group it comes from.
    """
    return [
        (f"folder {number}", [1 + number] * (size // documents - 1))
        for number, size in enumerate(sizes)
        for _ in range(documents)
    ]


def test_the_hash_of_a_group_is_settled_for_good() -> None:
    """A change here moves text from one split to the other in every project."""
    expected = {
        "test": ["ctypes", "json"],
        "validation": ["email", "tkinter"],
        "train": ["asyncio", "logging", "é"],
    }
    for name, groups in expected.items():
        for group in groups:
            at = hash_of_group(group, key=9) / 2**64
            split = "test" if at < 0.3 else "validation" if at < 0.6 else "train"
            assert split == name
    assert hash_of_group("json", key=8) != hash_of_group("json", key=9)


def test_many_small_groups_go_where_their_hash_puts_them() -> None:
    """So that new groups move no old ones."""
    hashes = [hash_of_group(f"group {number}", key=9) for number in range(10_000)]

    assignment = assign(
        np.zeros(10_000, np.uint16),
        np.arange(1, 10_001),
        np.array(hashes, np.uint64),
        validation_fraction=0.1,
        test_fraction=0.2,
    )

    assert not assignment.num_groups_cut
    assert not assignment.num_groups_moved
    splits = [SPLITS[split] for split in assignment.splits.tolist()]
    assert splits == [
        "test" if at < 0.2 else "validation" if at < 0.2 + 0.1 else "train"
        for at in (value / 2**64 for value in hashes)
    ]


def book_and_page() -> Corpus:
    """Return a book to be cut, and a page whose hash puts it into the test split.

    The last document of the book alone is 8 % more than the test split should have.
    """
    names = (f"page {number}" for number in range(100))
    of_test = next(name for name in names if hash_of_group(name, key=9) < 0.08 * 2**64)
    book: Corpus = [("book", [7] * (size - 1)) for size in [8_940] * 10 + [8_600]]
    return [*book, (of_test, [7] * 1_499)]


@pytest.mark.parametrize(
    ("corpus", "asked", "num_cut", "num_moved"),
    [
        (folders(20_000), 0.08, 1, 0),  # one file
        (folders(20_000, documents=200), 0.08, 1, 0),  # one folder
        (folders(10_000, 10_000), 0.08, 2, 0),
        (folders(*[3_000] * 9), 0.08, 9, 0),  # too few groups to hold out one
        (folders(*[3_000] * 12), 0.08, 0, 1),
        (folders(88_000, *range(100, 580, 11)), 0.08, 1, 0),  # one has 88 % of the text
        (folders(*range(500, 7_000, 500)), 0.08, 0, 4),  # thirteen unequal folders
        (book_and_page(), 0.08, 1, 1),
        # Each group has many times as much as is held out, but for a few.
        (folders(*[4_000] * 20, *[90] * 20), 0.002, 0, 4),
    ],
    ids=range(9),
)
def test_the_shares_are_about_what_was_asked_for(
    corpus: Corpus, asked: float, num_cut: int, num_moved: int
) -> None:
    done = split(corpus, validation_fraction=asked, test_fraction=asked)

    assert done.shares["validation"] == pytest.approx(asked, rel=TOLERANCE)
    assert done.shares["test"] == pytest.approx(asked, rel=TOLERANCE)
    assert done.assignment.num_groups == len({group for group, _ in corpus})
    assert done.assignment.num_groups_cut == num_cut
    assert done.assignment.num_groups_moved == num_moved


@property_test
@given(
    sizes=st.lists(st.integers(100, 3_000), min_size=1, max_size=40),
    documents=st.integers(1, 4),
    validation=fractions,
    test=fractions,
)
def test_no_split_is_off_by_more_than_a_quarter_and_no_small_group_is_torn(
    sizes: list[int], documents: int, validation: float, test: float
) -> None:
    corpus = folders(*sizes, documents=documents)

    done = split(corpus, validation_fraction=validation, test_fraction=test)

    num_tokens = sum(len(ids) + 1 for _, ids in corpus)
    for name, fraction in (("validation", validation), ("test", test)):
        asked = fraction * num_tokens
        rounding = 2 * done.assignment.num_groups_cut
        assert abs(len(done.files[name]) - asked) <= TOLERANCE * asked + rounding
    held = [set(tokens) for tokens in done.files.values()]
    for number, size in enumerate(sizes, start=1):
        is_small = size <= SMALL_MULTIPLE * min(validation, test) * num_tokens
        assert sum(number in tokens for tokens in held) == 1 or not is_small


@property_test
@given(
    corpus=st.lists(
        st.tuples(st.text(max_size=3), st.lists(st.none(), max_size=4)),
        min_size=1,
        max_size=20,
    ),
    key=st.integers(0, 2**64 - 1),
    fraction=fractions,
    at_once=st.integers(1, 9),
    data=st.data(),
)
def test_every_token_lands_in_exactly_one_split_in_order_and_is_counted(
    corpus: list[tuple[str, list[None]]],
    key: int,
    fraction: float,
    at_once: int,
    data: st.DataObject,
) -> None:
    """However many shards there are, and however few tokens are copied at once.

    Each token is made unlike all others: numbered in the order of the corpus.
    """
    inside = st.integers(1, max(1, len(corpus) - 1))
    borders = sorted(data.draw(st.sets(inside, max_size=2)))
    numbers = iter(range(1, 1000))
    numbered = [(group, [next(numbers) for _ in ids]) for group, ids in corpus]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toygpt.data.splitting.TOKENS_AT_ONCE", at_once)
        done = split(
            numbered,
            key=key,
            borders=borders if len(corpus) > 1 else [],
            validation_fraction=fraction,
            test_fraction=fraction,
        )

    texts = [[token for token in tokens if token] for tokens in done.files.values()]
    everything = [token for text in texts for token in text]
    assert sorted(everything) == [token for _, ids in numbered for token in ids]
    assert all(text == sorted(text) for text in texts)
    assert list(done.parts) == list(SPLITS)
    for name, part in done.parts.items():
        tokens = done.files[name]
        assert part.documents == tokens.count(END_OF_TEXT)
        assert part.tokens == len(tokens)
        assert part.bytes == sum(token % 10 for token in tokens)
        assert not tokens or tokens[-1] == END_OF_TEXT
    num_documents = sum(part.documents for part in done.parts.values())
    assert num_documents == len(corpus) + int(done.assignment.is_cut.sum())


def test_a_shard_has_a_file_of_its_own_for_every_split(tmp_path: Path) -> None:
    """Each can be read, checked and copied without the others."""
    shards = [np.array(tokens, "<u2") for tokens in ([1, 0, 2, 0], [3, 4, 0])]
    ends, splits = np.array([2, 4, 5, 7]), np.array([0, 1, 0, 2])
    is_cut = np.array([False, False, True, False])
    lengths = np.ones(5, dtype=np.int64)

    write_splits(
        shards,
        Assignment(ends, splits, is_cut, 2, 1, 0),
        tmp_path,
        lengths,
        END_OF_TEXT,
    )

    assert {path.name: [*path.read_bytes()[::2]] for path in tmp_path.iterdir()} == {
        "train-00000.bin": [1, 0],
        "train-00001.bin": [3, 0],
        "validation-00000.bin": [2, 0],
        "validation-00001.bin": [],
        "test-00000.bin": [],
        "test-00001.bin": [4, 0],
    }


@pytest.mark.parametrize("num_groups", [1, 3])
def test_documents_and_their_groups_must_be_as_many(num_groups: int) -> None:
    """Documents of one download with the tokens of another would be split askew."""
    with pytest.raises(ValueError, match=f"{num_groups} groups for 2 documents"):
        assign(
            np.array([1, 0, 2, 0], np.uint16),
            np.array([2, 4]),
            np.arange(num_groups, dtype=np.uint64),
        )


def test_a_group_that_is_too_large_gives_way_and_the_others_stay() -> None:
    """The first group in the order of the hash would make the test split too large."""
    hashes = {f"folder {n}": hash_of_group(f"folder {n}", key=9) for n in range(100)}
    names = sorted(hashes, key=hashes.__getitem__)
    sizes = [1_500] + [100] * 99
    corpus = [(names[n], [1 + n] * (sizes[n] - 1)) for n in range(100)]
    own = {n for n in range(1, 100) if hashes[names[n]] < 0.08 * 2**64}

    done = split(corpus)

    in_test = {token - 1 for token in done.files["test"] if token}
    assert own <= in_test == set(range(1, 1 + len(in_test)))
    assert done.shares["test"] == pytest.approx(0.08, rel=TOLERANCE)
    assert 1 in done.files["train"]


ALL_BYTES = [b"", *(bytes([byte]) for byte in range(1, 256))]


@pytest.mark.parametrize(
    ("sentence", "ending"),
    [
        ("Some words\nof prose.\n\n", ".\n\n"),
        ("Some words.\r\n\r\n", ".\r\n\r\n"),
        ("if x:\n    return y\n", "\n"),
        ("日本語の文章です。", ""),
    ],
)
def test_one_text_is_cut_where_it_pauses(sentence: str, ending: str) -> None:
    """Train has its beginning, test its end; each part ends as a document does."""
    text = sentence * 300

    done = split([("input.txt", [*text.encode()])], bytes_of_token=ALL_BYTES)

    parts = [bytes(done.files[name]) for name in SPLITS]
    assert all(part.endswith(b"\0") and part.count(b"\0") == 1 for part in parts)
    train, validation, test = (part[:-1].decode() for part in parts)
    assert train + validation + test == text
    assert train.endswith(ending)
    assert validation.endswith(ending)
    assert done.shares["test"] == pytest.approx(0.08, rel=0.1)
    assert [part.documents for part in done.parts.values()] == [1, 1, 1]


def test_a_folder_is_cut_between_its_files() -> None:
    done = split(folders(20_000, documents=100))

    assert not done.assignment.is_cut.any()
    assert done.assignment.splits.tolist() == [0] * 84 + [1] * 8 + [2] * 8


def test_files_elsewhere_move_nothing_in_a_group_that_is_cut() -> None:
    """Its rows may also be scattered among those of other groups."""
    book: Corpus = [("book", [number] * 600) for number in range(1, 31)]
    others: Corpus = [(f"page {number}", [500] * 40) for number in range(40)]
    mixed = [document for pair in zip(book, others, strict=False) for document in pair]

    alone = split(book)
    beside = split(mixed + others[30:])

    assert beside.assignment.num_groups_cut == 1
    for name, tokens in beside.files.items():
        assert [t for t in tokens if 0 < t < 500] == [t for t in alone.files[name] if t]
