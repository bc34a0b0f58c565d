"""Token ids on disk: read as they were written."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toygpt.data import token_files
from toygpt.data.token_files import (
    batched,
    count_tokens,
    largest_id,
    map_tokens,
    token_type_for,
    write_tokens,
)


def documents(*token_ids: list[int]) -> list[token_files.TokenIds]:
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
