"""Token ids on disk: read as they were written."""

import doctest
import resource
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toygpt.data import token_files
from toygpt.data.shards import Shard
from toygpt.data.token_files import (
    JoinedTokens,
    TokenIds,
    allow_open_files,
    batched,
    count_tokens,
    largest_id,
    map_tokens,
    token_type_for,
    write_tokens,
)
from toygpt.pipeline.errors import InputError


def documents(*token_ids: list[int]) -> list[TokenIds]:
    return [np.array(ids, dtype=np.uint32) for ids in token_ids]


@pytest.mark.parametrize(
    ("vocab_size", "token_type", "bytes_per_token"),
    [(65_536, "uint16", 2), (65_537, "uint32", 4), (2**32, "uint32", 4)],
)
def test_a_token_takes_two_bytes_while_they_hold_the_largest_id(
    tmp_path: Path, vocab_size: int, token_type: str, bytes_per_token: int
) -> None:
    ids = [0, 1, vocab_size - 1]

    write_tokens(documents(ids), tmp_path, token_type=token_type)

    assert token_type_for(vocab_size) == token_type
    path = tmp_path / "tokens.bin"
    assert path.stat().st_size == 3 * bytes_per_token
    tokens = map_tokens(path, token_type=token_type)
    assert tokens.tolist() == ids
    assert not tokens.flags.writeable


@pytest.mark.parametrize("at_once", [1, 2, 1_000_000])
def test_tokens_lie_one_after_another_with_their_lowest_byte_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """So that any program on any machine can read them."""
    monkeypatch.setattr(token_files, "TOKENS_WRITTEN_AT_ONCE", at_once)

    counted = write_tokens(
        documents([0x0102, 0x0304], [0x0506], [0]), tmp_path, token_type="uint16"
    )

    assert counted == (4, 3)
    assert (tmp_path / "tokens.bin").read_bytes() == bytes([2, 1, 4, 3, 6, 5, 0, 0])
    ends = np.frombuffer((tmp_path / "ends.bin").read_bytes(), dtype="<u8")
    assert ends.tolist() == [2, 3, 4]


def test_a_shard_counts_where_its_own_documents_end(tmp_path: Path) -> None:
    """So that it can be written without the shards before it."""
    for number in range(2):
        write_tokens(
            documents([7, 0], [number, 8, 0]),
            tmp_path,
            token_type="uint16",
            shard=Shard(number, 2),
        )

    tokens = map_tokens(tmp_path / "tokens-00001.bin", token_type="uint16")
    assert tokens.tolist() == [7, 0, 1, 8, 0]
    ends = np.fromfile(tmp_path / "ends-00001.bin", dtype="<u8")
    assert ends.tolist() == [2, 5]
    (tmp_path / "empty.bin").touch()
    assert len(map_tokens(tmp_path / "empty.bin", token_type="uint16")) == 0


def test_the_examples_are_true() -> None:
    assert doctest.testmod(token_files).failed == 0


def joined(tokens: TokenIds, cuts: list[int]) -> JoinedTokens:
    """Return tokens as if some shards held them; a cut may leave one empty."""
    borders = [0, *sorted(cuts), len(tokens)]
    return JoinedTokens([tokens[first:end] for first, end in pairwise(borders)])


@settings(max_examples=300)
@given(
    length=st.integers(1, 12),
    data=st.data(),
    first=st.none() | st.integers(-3, 15),
    end=st.none() | st.integers(-3, 15),
)
def test_tokens_of_several_files_read_like_those_of_one(
    length: int, data: st.DataObject, first: int | None, end: int | None
) -> None:
    tokens = np.arange(length, dtype="<u2")
    cuts = data.draw(st.lists(st.integers(0, length), max_size=4))

    several = joined(tokens, cuts)

    assert len(several) == length
    assert several[first:end].tolist() == tokens[first:end].tolist()
    assert several[first:end].dtype == tokens.dtype
    places = data.draw(st.lists(st.integers(0, length - 1), max_size=6))
    columns = np.array([places, places[::-1]], dtype=np.int64)
    assert several[columns].tolist() == tokens[columns].tolist()
    assert several[columns].dtype == tokens.dtype
    assert largest_id(several) == length - 1
    assert count_tokens(several, length).tolist() == [1] * length


def test_a_run_inside_one_file_is_not_copied() -> None:
    """The pages of the file are read when they are looked at, and no others."""
    tokens = np.arange(10, dtype="<u2")

    several = joined(tokens, [4])

    assert np.shares_memory(several[4:9], tokens)
    assert not np.shares_memory(several[3:9], tokens)


MOST_OPEN_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def test_more_files_may_be_open_if_there_are_more_shards() -> None:
    before = _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, most))
        allow_open_files(1)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, most)
        allow_open_files(100)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (656, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(
    not 0 < MOST_OPEN_FILES < 4_000_000, reason="as many files may be open"
)
def test_more_shards_than_files_may_be_open_are_refused() -> None:
    with pytest.raises(InputError, match=r"^999,999 shards need 4,000,252 open files"):
        allow_open_files(999_999)


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_many_tokens_are_looked_at_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(token_files, "TOKENS_AT_ONCE", at_once)
    tokens = np.array([1, 5, 0, 5, 2], dtype=np.uint16)

    assert largest_id(tokens) == 5
    assert count_tokens(tokens, 7).tolist() == [1, 1, 1, 0, 0, 2, 0]


@given(items=st.lists(st.text(max_size=5)), size=st.integers(1, 10))
def test_a_batch_is_full_and_none_could_have_ended_sooner(
    items: list[str], size: int
) -> None:
    batches = list(batched(items, size=size))

    assert [item for batch in batches for item in batch] == items
    assert all(batches)
    for batch in batches[:-1]:
        assert sum(map(len, batch)) >= size
    for batch in batches:
        assert sum(map(len, batch[:-1])) < size


def test_a_batch_is_yielded_before_the_next_item_is_read() -> None:
    items = iter(["ab", "cd", "ef"])

    assert next(batched(items, size=3)) == ["ab", "cd"]
    assert list(items) == ["ef"]
    assert list(batched([3, 1, 1, 2], size=3, length=int)) == [[3], [1, 1, 2]]
