"""The key/value cache of many sequences, of many lengths."""

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_model
from toygpt.generation.batch_cache import BatchCache
from toygpt.model.attention import attention_one_by_one

NUM_HEADS, HEAD_DIM, NUM_TOKENS = 3, 4, 10


class RandomSequences:
    """Sequences of random heads, and a cache of one layer to read them with."""

    def __init__(self, num_sequences: int) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (3, num_sequences, NUM_HEADS, NUM_TOKENS, HEAD_DIM)
        self.heads = torch.randn(shape, generator=generator)
        model = tiny_model(
            num_layers=1,
            num_heads=NUM_HEADS,
            embed_dim=NUM_HEADS * HEAD_DIM,
            block_size=NUM_TOKENS,
        )
        self.cache = BatchCache(
            model, num_sequences=num_sequences, max_tokens=NUM_TOKENS
        )

    def read(self, parts: dict[int, tuple[int, slice]]) -> dict[int, Tensor]:
        """Read a part of a sequence into each of some rows; return what comes out."""
        num_new = [part.stop - part.start for _, part in parts.values()]
        if parts and all(self.cache.lengths[row] for row in parts):
            self.cache.prepare_decode_step(list(parts))
        else:
            self.cache.prepare_prefill(list(parts), num_new)
        query, key, value = (
            torch.nn.utils.rnn.pad_sequence(
                [
                    heads[number, :, part].transpose(0, 1)
                    for number, part in parts.values()
                ],
                batch_first=True,
            ).transpose(1, 2)
            for heads in self.heads
        )
        mixed = self.cache.layers[0](query, key, value)
        return {
            row: of_row[:, :num]
            for row, of_row, num in zip(parts, mixed, num_new, strict=True)
        }

    def expected(self, number: int, part: slice) -> Tensor:
        """Return attention over a part of a sequence, if there is nothing before it."""
        query, key, value = self.heads[:, number : number + 1, :, part]
        return attention_one_by_one(query, key, value)[0]


@pytest.mark.parametrize("num_first", [(1, 1), (4, 4), (1, 7), (5, 2)])
def test_token_by_token_attention_gives_the_same(num_first: tuple[int, int]) -> None:
    """For sequences of equal lengths, and of different ones."""
    sequences = RandomSequences(2)
    starts = {row: (row, slice(0, num)) for row, num in enumerate(num_first)}
    outputs = {row: [part] for row, part in sequences.read(starts).items()}
    for step in range(NUM_TOKENS - max(num_first)):
        nexts = {
            row: (row, slice(num + step, num + step + 1))
            for row, num in enumerate(num_first)
        }
        for row, part in sequences.read(nexts).items():
            outputs[row].append(part)

    lengths = [num + NUM_TOKENS - max(num_first) for num in num_first]
    assert sequences.cache.lengths == lengths
    for row, length in enumerate(lengths):
        expected = sequences.expected(row, slice(0, length))
        torch.testing.assert_close(torch.cat(outputs[row], dim=1), expected)


def test_a_row_can_be_used_again_while_others_continue() -> None:
    sequences = RandomSequences(3)
    sequences.read({0: (0, slice(0, 6)), 1: (1, slice(0, 6)), 2: (2, slice(0, 3))})

    sequences.cache.clear(1)
    sequences.read({1: (1, slice(4, 6))})
    sequences.read({0: (0, slice(6, 7)), 2: (2, slice(3, 4))})
    last = sequences.read(
        {0: (0, slice(7, 8)), 1: (1, slice(6, 7)), 2: (2, slice(4, 5))}
    )

    assert sequences.cache.lengths == [8, 3, 5]
    for row, seen in enumerate((slice(0, 8), slice(4, 7), slice(0, 5))):
        expected = sequences.expected(row, seen)[:, -1:]
        torch.testing.assert_close(last[row], expected)


def test_sequences_that_are_kept_close_the_gaps() -> None:
    sequences = RandomSequences(3)
    sequences.read({0: (0, slice(0, 6)), 1: (1, slice(0, 5)), 2: (2, slice(0, 3))})

    sequences.cache.keep([0, 2])
    last = sequences.read({0: (0, slice(6, 7)), 1: (2, slice(3, 4))})

    assert sequences.cache.lengths == [7, 4]
    for row, (number, length) in enumerate(((0, 7), (2, 4))):
        expected = sequences.expected(number, slice(0, length))[:, -1:]
        torch.testing.assert_close(last[row], expected)


def test_misuse_is_noticed_before_anything_changes() -> None:
    cache = RandomSequences(3).cache
    cache.prepare_prefill([0, 1], [NUM_TOKENS, 3])

    with pytest.raises(AssertionError):
        cache.prepare_prefill([1, 2], [1, 1])
    with pytest.raises(AssertionError, match="begins with a prefill"):
        cache.prepare_decode_step([1, 2])
    with pytest.raises(AssertionError, match="full"):
        cache.prepare_decode_step([0, 1])

    assert cache.lengths == [NUM_TOKENS, 3, 0]
