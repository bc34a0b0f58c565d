"""The split: shares come out as asked, groups stay put, and no token is lost."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stages.download
import stages.split
import stages.tokenize
from tests.project import tiny_project
from toygpt.data.manifest import Part
from toygpt.data.split import (
    SPLITS,
    TOLERANCE,
    Assignment,
    assign_splits,
    hash_of_group,
)
from toygpt.data.split_files import write_splits
from toygpt.data.token_files import TokenIds
from toygpt.pipeline import paths

END_OF_TEXT = 0
# How many bytes of text each token id stands for: none for the end of a document.
BYTES_OF_TOKEN = [b"x" * (token % 10) for token in range(1000)]

property_test = settings(max_examples=60)
group_names = st.text(max_size=3)
token_lists = st.lists(st.integers(1, 499), max_size=4)
corpora = st.lists(st.tuples(group_names, token_lists), min_size=1, max_size=20)
fractions = st.floats(0.05, 0.3)

Corpus = list[tuple[str, list[int]]]


class Split(NamedTuple):
    """What became of a corpus."""

    assignment: Assignment
    parts: dict[str, Part]
    files: dict[str, list[int]]  # the token ids of each split

    @property
    def shares(self) -> dict[str, float]:
        """The share of all tokens that each split has."""
        whole = sum(map(len, self.files.values()))
        return {name: len(tokens) / whole for name, tokens in self.files.items()}


def split(
    corpus: Corpus,
    directory: Path,
    *,
    key: int = 9,
    validation_fraction: float = 0.08,
    test_fraction: float = 0.08,
    bytes_of_token: Sequence[bytes] = BYTES_OF_TOKEN,
) -> Split:
    """Split a corpus of groups and token ids as the stage does."""
    documents = [np.array([*ids, END_OF_TEXT], dtype="<u2") for _, ids in corpus]
    tokens: TokenIds = np.concatenate(documents)
    ends = np.cumsum([len(document) for document in documents], dtype=np.uint64)
    assignment = assign_splits(
        tokens,
        ends,
        (hash_of_group(group, key=key) for group, _ in corpus),
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        bytes_of_token=bytes_of_token,
    )
    lengths = np.array([len(piece) for piece in bytes_of_token])
    parts = write_splits(tokens, assignment, directory, lengths, END_OF_TEXT)
    files = {
        name: np.fromfile(directory / f"{name}.bin", dtype="<u2").tolist()
        for name in SPLITS
    }
    return Split(assignment, parts, files)


def split_of_each(num_groups: int, **choices: float) -> list[str]:
    """Return the splits of many groups of one token each, a few of them held out."""
    key = int(choices.pop("key", 9))
    assignment = assign_splits(
        np.zeros(num_groups, np.uint16),
        np.arange(1, num_groups + 1, dtype=np.uint64),
        [hash_of_group(f"group {number}", key=key) for number in range(num_groups)],
        **{"validation_fraction": 0.08, "test_fraction": 0.08} | choices,
        bytes_of_token=BYTES_OF_TOKEN,
    )
    assert not assignment.num_groups_cut
    assert not assignment.num_groups_moved
    return [SPLITS[split] for split in assignment.splits.tolist()]


def folders(*sizes: int, documents: int = 1) -> Corpus:
    """Return groups of so many tokens each, in documents of the same length."""
    return [
        (f"folder {number}", [7] * (size // documents - 1))
        for number, size in enumerate(sizes)
        for _ in range(documents)
    ]


def test_the_hash_of_a_group_is_settled_for_good() -> None:
    """A change here moves text from one split to the other in every project."""
    expected = {
        "asyncio": "train",
        "ctypes": "test",
        "email": "validation",
        "json": "test",
        "logging": "train",
        "tkinter": "validation",
        "é": "train",
    }

    positions = {group: hash_of_group(group, key=9) / 2**64 for group in expected}

    assert {
        group: "test" if at < 0.3 else "validation" if at < 0.6 else "train"
        for group, at in positions.items()
    } == expected


def test_many_small_groups_go_where_their_hash_puts_them() -> None:
    splits = split_of_each(10_000, validation_fraction=0.1, test_fraction=0.2)

    positions = [hash_of_group(f"group {n}", key=9) / 2**64 for n in range(10_000)]
    assert splits == [
        "test" if at < 0.2 else "validation" if at < 0.2 + 0.1 else "train"
        for at in positions
    ]
    shares = {name: count / 10_000 for name, count in Counter(splits).items()}
    assert shares == pytest.approx(
        {"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.015
    )


def test_another_key_assigns_otherwise() -> None:
    """As if the first time had not been: a third of the test split stays in it."""
    fractions = {"validation_fraction": 1 / 3, "test_fraction": 1 / 3}
    first = split_of_each(3_000, key=1, **fractions)

    second = split_of_each(3_000, key=2, **fractions)

    stayed = sum(a == b for a, b in zip(first, second, strict=True))
    assert 900 < stayed < 1_100


def test_new_groups_move_no_old_ones_where_the_hash_decides() -> None:
    before = split_of_each(2_000)

    after = split_of_each(2_500)

    assert after[:2_000] == before


@pytest.mark.parametrize(
    ("corpus", "num_cut", "num_moved"),
    [
        pytest.param(folders(20_000), 1, 0, id="one file"),
        pytest.param(folders(20_000, documents=200), 1, 0, id="one folder"),
        pytest.param(folders(10_000, 10_000), 2, 0, id="two files"),
        pytest.param(folders(*[3_000] * 9), 9, 0, id="too few groups to hold out one"),
        pytest.param(folders(*[3_000] * 12), 0, 1, id="twelve equal folders"),
        pytest.param(
            folders(88_000, *range(100, 580, 11)), 1, 0, id="one holds 88 % of the text"
        ),
        pytest.param(
            folders(*range(500, 7_000, 500)), 0, 4, id="thirteen unequal folders"
        ),
    ],
)
def test_the_shares_are_about_what_was_asked_for(
    corpus: Corpus, num_cut: int, num_moved: int, tmp_path: Path
) -> None:
    done = split(corpus, tmp_path)

    assert done.shares["validation"] == pytest.approx(0.08, rel=TOLERANCE)
    assert done.shares["test"] == pytest.approx(0.08, rel=TOLERANCE)
    assert done.assignment.num_groups == len({group for group, _ in corpus})
    assert done.assignment.num_groups_cut == num_cut
    assert done.assignment.num_groups_moved == num_moved


@property_test
@given(
    sizes=st.lists(st.integers(100, 3_000), min_size=1, max_size=40),
    documents=st.integers(1, 4),
    validation_fraction=fractions,
    test_fraction=fractions,
)
def test_no_split_is_off_by_more_than_a_quarter_for_any_groups(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    documents: int,
    validation_fraction: float,
    test_fraction: float,
) -> None:
    corpus = folders(*sizes, documents=documents)

    done = split(
        corpus,
        tmp_path_factory.mktemp("splits"),
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
    )

    num_tokens = sum(len(ids) + 1 for _, ids in corpus)
    for name, fraction in (
        ("validation", validation_fraction),
        ("test", test_fraction),
    ):
        asked = fraction * num_tokens
        rounding = 2 * done.assignment.num_groups_cut
        assert abs(len(done.files[name]) - asked) <= TOLERANCE * asked + rounding


@property_test
@given(corpus=corpora, key=st.integers(0, 2**64 - 1), fraction=fractions)
def test_every_token_lands_in_exactly_one_split_and_order_is_kept(
    tmp_path_factory: pytest.TempPathFactory,
    corpus: Corpus,
    key: int,
    fraction: float,
) -> None:
    """Each token is made unlike all others: numbered in the order of the corpus."""
    numbers = iter(range(1, 1000))
    numbered = [(group, [next(numbers) for _ in ids]) for group, ids in corpus]

    done = split(
        numbered,
        tmp_path_factory.mktemp("splits"),
        key=key,
        validation_fraction=fraction,
        test_fraction=fraction,
    )

    texts = {
        name: [token for token in tokens if token != END_OF_TEXT]
        for name, tokens in done.files.items()
    }
    everything = [token for text in texts.values() for token in text]
    assert sorted(everything) == [token for _, ids in numbered for token in ids]
    assert all(text == sorted(text) for text in texts.values())
    for name, tokens in done.files.items():
        assert tokens.count(END_OF_TEXT) == done.parts[name].documents
        assert not tokens or tokens[-1] == END_OF_TEXT


@property_test
@given(sizes=st.lists(st.integers(2, 100), min_size=20, max_size=60))
def test_no_small_group_is_torn_across_splits(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    """Each token is made to say which group it comes from."""
    marked = [
        (f"group {number}", [number] * (size - 1))
        for number, size in enumerate(sizes, start=1)
    ]

    done = split(marked, tmp_path_factory.mktemp("splits"))

    for number, size in enumerate(sizes, start=1):
        holders = [name for name, tokens in done.files.items() if number in tokens]
        assert len(holders) == 1 or size > 0.04 * sum(sizes)


@property_test
@given(corpus=corpora)
def test_what_each_split_got_is_counted(
    tmp_path_factory: pytest.TempPathFactory, corpus: Corpus
) -> None:
    done = split(corpus, tmp_path_factory.mktemp("splits"))

    assert list(done.parts) == list(SPLITS)
    for name, part in done.parts.items():
        assert part.tokens == len(done.files[name])
        assert part.bytes == sum(token % 10 for token in done.files[name])
    num_cuts = int(done.assignment.is_cut.sum())
    num_documents = sum(part.documents for part in done.parts.values())
    assert num_documents == len(corpus) + num_cuts


@property_test
@given(corpus=corpora, at_once=st.integers(1, 5))
def test_documents_too_long_to_be_copied_at_once_are_copied_whole(
    tmp_path_factory: pytest.TempPathFactory, corpus: Corpus, at_once: int
) -> None:
    directory = tmp_path_factory.mktemp("splits")
    expected = split(corpus, directory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toygpt.data.split_files.TOKENS_AT_ONCE", at_once)
        in_parts = split(corpus, directory)

    assert (in_parts.parts, in_parts.files) == (expected.parts, expected.files)


@pytest.mark.parametrize("num_groups", [1, 3])
def test_documents_and_their_groups_must_be_as_many(num_groups: int) -> None:
    """Documents of one download with the tokens of another would be split askew."""
    with pytest.raises(ValueError, match=f"{num_groups} groups for 2 documents"):
        assign_splits(
            np.array([1, 0, 2, 0], dtype=np.uint16),
            np.array([2, 4], dtype=np.uint64),
            range(num_groups),
            validation_fraction=0.08,
            test_fraction=0.08,
            bytes_of_token=BYTES_OF_TOKEN,
        )


def test_a_group_that_is_too_large_gives_way_and_the_others_stay(
    tmp_path: Path,
) -> None:
    """The first group in the order of the hash would make the test split too large."""
    names = sorted(
        (f"folder {number}" for number in range(100)),
        key=lambda name: hash_of_group(name, key=9),
    )
    sizes = dict.fromkeys(names, 100) | {names[0]: 1_500}
    corpus = [(name, [1 + names.index(name)] * (sizes[name] - 1)) for name in names]
    limit = 0.08 * 2**64
    own = [name for name in names[1:] if hash_of_group(name, key=9) < limit]

    done = split(corpus, tmp_path)

    in_test = {names[token - 1] for token in done.files["test"] if token}
    in_order = set(names[1 : 1 + len(in_test)])
    assert set(own) <= in_test == in_order
    assert done.shares["test"] == pytest.approx(0.08, rel=TOLERANCE)
    assert names.index(names[0]) + 1 in done.files["train"]


def characters(text: str) -> list[int]:
    """Return a token for each byte of a text; byte 0 would be the end of a document."""
    return list(text.encode())


ALL_BYTES = [b"", *(bytes([byte]) for byte in range(1, 256))]


@pytest.mark.parametrize(
    ("sentence", "ending"),
    [
        pytest.param("Some words\nof prose.\n\n", ".\n\n", id="after an empty line"),
        pytest.param(
            "Some words.\r\n\r\n", ".\r\n\r\n", id="after an empty line of DOS"
        ),
        pytest.param("if x:\n    return y\n", "\n", id="after the end of a line"),
        pytest.param("日本語の文章です。", "", id="between characters"),
    ],
)
def test_one_text_is_cut_where_it_pauses(
    sentence: str, ending: str, tmp_path: Path
) -> None:
    """Train has its beginning, test its end; each part ends as a document does."""
    text = sentence * 300

    done = split([("input.txt", characters(text))], tmp_path, bytes_of_token=ALL_BYTES)

    parts = [bytes(done.files[name]) for name in SPLITS]
    assert all(part.endswith(b"\0") and part.count(b"\0") == 1 for part in parts)
    train, validation, test = (part[:-1].decode() for part in parts)
    assert train + validation + test == text
    assert train.endswith(ending)
    assert validation.endswith(ending)
    assert done.shares["test"] == pytest.approx(0.08, rel=0.1)
    assert [part.documents for part in done.parts.values()] == [1, 1, 1]


def test_a_folder_is_cut_between_its_files(tmp_path: Path) -> None:
    corpus = folders(20_000, documents=100)

    done = split(corpus, tmp_path)

    assert not done.assignment.is_cut.any()
    assert [part.documents for part in done.parts.values()] == [84, 8, 8]
    assert done.assignment.splits.tolist() == [0] * 84 + [1] * 8 + [2] * 8


def test_a_small_held_out_part_is_not_made_of_scraps_of_every_group(
    tmp_path: Path,
) -> None:
    """Each group has many times as much as is held out, but for a few."""
    corpus = folders(*[4_000] * 20, *[90] * 20)

    done = split(corpus, tmp_path, validation_fraction=0.002, test_fraction=0.002)

    assert not done.assignment.num_groups_cut
    assert done.shares["test"] == pytest.approx(0.002, rel=TOLERANCE)


def test_files_elsewhere_move_nothing_in_a_group_that_is_cut(tmp_path: Path) -> None:
    """Its rows may also be scattered among those of other groups."""
    book: Corpus = [("book", [number] * 600) for number in range(1, 31)]
    others: Corpus = [(f"page {number}", [500] * 40) for number in range(40)]
    mixed = [document for pair in zip(book, others, strict=False) for document in pair]

    alone = split(book, tmp_path)
    beside = split(mixed + others[30:], tmp_path)

    assert beside.assignment.num_groups_cut == 1
    for name, tokens in beside.files.items():
        assert [t for t in tokens if 0 < t < 500] == [t for t in alone.files[name] if t]


def test_one_file_of_text_is_all_that_the_stages_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the file to the metrics, with the default fractions."""
    project = tiny_project(tmp_path / "project")
    fractions = {f"split.{name}_fraction": 0.08 for name in ("validation", "test")}
    project.set_params({"corpus": "files", "tokenize.vocab_size": 260} | fractions)
    lines = (f"Line {number**5} of a poem.\n\n" for number in range(150))
    (project.root / "texts/input.txt").write_text("".join(lines), encoding="utf-8")
    monkeypatch.chdir(project.root)

    for stage in (stages.download, stages.tokenize, stages.split):
        stage.main()

    metrics = json.loads((paths.METRICS / "split.json").read_text(encoding="utf-8"))
    for name in ("validation", "test"):
        assert metrics[f"{name}_fraction_asked"] == 0.08
        assert metrics[f"{name}_fraction"] == pytest.approx(0.08, rel=0.1)
    counts = ("groups", "groups_cut", "groups_moved", "test_documents")
    assert [metrics[count] for count in counts] == [1, 1, 0, 1]
    assert 0 <= metrics["test_leakage"] < 1
