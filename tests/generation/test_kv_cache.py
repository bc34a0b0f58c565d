"""What attention remembers of texts that are being written."""

import pytest
import torch
from torch import Tensor

from toygpt.generation.kv_cache import KeyValueCache
from toygpt.model.attention import attention_one_by_one

NUM_HEADS, HEAD_DIM, NUM_TOKENS = 3, 4, 10


class Texts:
    """Texts of random heads, and a cache of one layer to read them with."""

    def __init__(self, num_texts: int) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (3, num_texts, NUM_TOKENS, NUM_HEADS, HEAD_DIM)
        self.query, self.key, self.value = torch.randn(shape, generator=generator)
        self.cache = KeyValueCache(
            num_layers=1,
            num_texts=num_texts,
            num_heads=NUM_HEADS,
            num_tokens=NUM_TOKENS,
            head_dim=HEAD_DIM,
        )

    def read_on(self, places: dict[int, tuple[int, slice]]) -> dict[int, Tensor]:
        """Let rows of the cache go on by a part of a text; return what comes out."""
        num_new = [part.stop - part.start for _, part in places.values()]
        self.cache.make_room(list(places), num_new)
        query, key, value = (
            torch.nn.utils.rnn.pad_sequence(
                [heads[text, part] for text, part in places.values()],
                batch_first=True,
            )
            for heads in (self.query, self.key, self.value)
        )
        mixed = self.cache.attend(0, query, torch.stack((key, value), dim=2))
        return {
            row: of_row[:num]
            for row, of_row, num in zip(places, mixed, num_new, strict=True)
        }

    def expected(self, text: int, part: slice) -> Tensor:
        """Return what attention makes of a part of a text that is all it sees."""
        heads = (
            heads[text, part].transpose(0, 1)[None]
            for heads in (self.query, self.key, self.value)
        )
        return attention_one_by_one(*heads)[0].transpose(0, 1)


@pytest.mark.parametrize("num_first", [(1, 1), (4, 4), (1, 7), (5, 2)])
def test_token_by_token_attention_gives_the_same(num_first: tuple[int, int]) -> None:
    """In texts that go on from the same place, and in such that do not."""
    texts = Texts(2)
    begun = {row: (row, slice(0, num)) for row, num in enumerate(num_first)}
    parts = {row: [part] for row, part in texts.read_on(begun).items()}
    for step in range(NUM_TOKENS - max(num_first)):
        nexts = {
            row: (row, slice(num + step, num + step + 1))
            for row, num in enumerate(num_first)
        }
        for row, part in texts.read_on(nexts).items():
            parts[row].append(part)

    lengths = [num + NUM_TOKENS - max(num_first) for num in num_first]
    assert texts.cache.lengths == lengths
    for row, length in enumerate(lengths):
        expected = texts.expected(row, slice(0, length))
        torch.testing.assert_close(torch.cat(parts[row]), expected)


def test_a_text_can_begin_anew_while_others_go_on() -> None:
    texts = Texts(3)
    texts.read_on({0: (0, slice(0, 6)), 1: (1, slice(0, 6)), 2: (2, slice(0, 3))})

    texts.cache.forget(1)
    texts.read_on({1: (1, slice(4, 6))})
    texts.read_on({0: (0, slice(6, 7)), 2: (2, slice(3, 4))})
    last = texts.read_on(
        {0: (0, slice(7, 8)), 1: (1, slice(6, 7)), 2: (2, slice(4, 5))}
    )

    assert texts.cache.lengths == [8, 3, 5]
    for row, seen in enumerate((slice(0, 8), slice(4, 7), slice(0, 5))):
        torch.testing.assert_close(last[row][0], texts.expected(row, seen)[-1])


def test_texts_that_are_kept_move_together() -> None:
    texts = Texts(3)
    texts.read_on({0: (0, slice(0, 6)), 1: (1, slice(0, 5)), 2: (2, slice(0, 3))})

    texts.cache.keep([0, 2])
    last = texts.read_on({0: (0, slice(6, 7)), 1: (2, slice(3, 4))})

    assert texts.cache.lengths == [7, 4]
    torch.testing.assert_close(last[0][0], texts.expected(0, slice(0, 7))[-1])
    torch.testing.assert_close(last[1][0], texts.expected(2, slice(0, 4))[-1])


@pytest.mark.parametrize(
    ("rows", "num_new"), [([0, 1], [2, 2]), ([0, 1], [1, 2]), ([0, 2], [1, 1])]
)
def test_after_the_first_tokens_only_one_may_come_at_a_time(
    rows: list[int], num_new: list[int]
) -> None:
    """Nothing would hide the second of two from the first."""
    cache = Texts(3).cache
    cache.make_room([0, 1], [3, 4])

    with pytest.raises(AssertionError):
        cache.make_room(rows, num_new)

    assert cache.lengths == [3, 4, 0]


def test_a_full_cache_takes_no_more() -> None:
    cache = Texts(2).cache
    cache.make_room([0, 1], [NUM_TOKENS, 3])

    with pytest.raises(AssertionError, match="full"):
        cache.make_room([0, 1], [1, 1])

    assert cache.lengths == [NUM_TOKENS, 3]
