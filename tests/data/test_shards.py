"""Shards: numbered files of one corpus, each of which is there once."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toygpt.data import shards
from toygpt.data.shards import MAX_SHARDS, Shard, digest_of_shards, shards_named
from toygpt.pipeline.errors import InputError


def test_the_examples_are_true() -> None:
    assert doctest.testmod(shards).failed == 0


@given(num_shards=st.integers(1, 30), data=st.data())
def test_shards_are_found_by_the_names_of_their_files_in_order(
    num_shards: int, data: st.DataObject
) -> None:
    expected = [Shard(number, num_shards) for number in range(num_shards)]
    names = [shard.name("train.bin") for shard in expected]
    others = ["trainer.bin", "my-train.bin", "train.bin.old", "test.bin", "train-.bin"]

    found = shards_named(data.draw(st.permutations([*names, *others])), "train.bin")

    assert found == expected
    assert sorted(names) == names
    assert shards_named(names, "test.bin") == []


def test_the_numbers_of_as_many_shards_as_there_may_be_sort_as_text_does() -> None:
    last = Shard(MAX_SHARDS - 1, MAX_SHARDS).name("ends.bin")

    assert last == "ends-99999.bin"
    assert last > Shard(2, MAX_SHARDS).name("ends.bin")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ("t-00000 t-00002", "t-00002.bin, but no t-00001.bin"),
        ("t-00001 t-00002", "t-00002.bin, but no t-00000.bin"),
        ("t-00000", "t-00000.bin, but no t.bin"),
        # One of an earlier corpus is left.
        ("t t-00000 t-00001", "t.bin, but no t-00002.bin"),
        ("t-00000 t-00001 t-000002", "t-000002.bin, but no t-00002.bin"),
    ],
)
def test_a_gap_or_a_file_too_many_is_named(names: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"^there is {reason}$"):
        shards_named([f"{name}.bin" for name in names.split()], "t.bin")


def test_a_digest_knows_each_shard_and_their_order() -> None:
    one, other = "a" * 64, "b" * 64

    assert digest_of_shards([one]) == one
    digests = [[one, one], [one, other], [other, one], [one, other, one]]
    assert len({one, other, *map(digest_of_shards, digests)}) == 6
