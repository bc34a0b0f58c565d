"""Handle a stream that is too long for memory some items at a time."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


def batched(
    items: Iterable[Item], *, size: int, length: Callable[[Any], int] = len
) -> Iterator[list[Item]]:
    """Yield items in lists whose lengths add up to `size`, or a little more.

    Args:
        items: Texts, arrays, or anything else that has a length.
        size: What the lengths of one list's items add up to; the last list's to less.
        length: Returns the length of an item.
    """
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += length(item)
        if total >= size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
