"""Streams, some items at a time."""

from hypothesis import given
from hypothesis import strategies as st

from toygpt.data.streaming import batched


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


def test_a_length_may_be_anything() -> None:
    assert list(batched([3, 1, 1, 2], size=3, length=int)) == [[3], [1, 1, 2]]
