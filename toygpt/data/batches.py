"""Batches: what the network sees at each step, as a function of the step alone.

Batch i depends on the seed and on i, on nothing that happened before. So training can
be resumed anywhere, shared among devices, or debugged at one step, and always sees the
same text.

>>> tokens = np.arange(100, 120, dtype=np.uint16)  # each one says its place in the text
>>> batches = TrainingBatches(tokens, block_size=4, batch_size=2, seed=0)
>>> inputs, targets = batches.batch(step=0)
>>> inputs.tolist()
[[111, 112, 113, 114], [107, 108, 109, 110]]
>>> targets.tolist()  # the inputs, one token later: what the network shall predict
[[112, 113, 114, 115], [108, 109, 110, 111]]
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int, Integer
from numpy.typing import NDArray
from torch import Tensor

from toygpt.data.random_order import RandomOrder
from toygpt.data.token_files import Tokens
from toygpt.pipeline.errors import InputError

# Sequences as the text has them, in as few bytes (uint16 or uint32), each one token
# longer than a block. The words name the axes of a tensor (jaxtyping): a row for each
# sequence of the batch, and a column for each token in time.
Sequences = Integer[Tensor, "batch time_plus_1"]
# Inputs and targets, in the integers that the network takes (int64).
Batch = tuple[Int[Tensor, "batch time"], Int[Tensor, "batch time"]]


def cut(sequences: Sequences) -> Batch:
    """Return inputs and targets; the targets are the inputs one token later."""
    token_ids = sequences.long()
    return token_ids[:, :-1].contiguous(), token_ids[:, 1:].contiguous()


def cut_on_device(sequences: Sequences, device: torch.device) -> Batch:
    """Send sequences to a device, and return inputs and targets there.

    A GPU fetches them by itself, from memory that is pinned for it, while the program
    goes ahead. With two bytes a token they are an eighth of inputs and targets.
    """
    if device.type == "cuda":
        sequences = sequences.pin_memory().to(device, non_blocking=True)
    inputs, targets = cut(sequences)
    return inputs.to(device), targets.to(device)


class TrainingBatches:
    """The sequences of every step: each token once an epoch, in a new order each time.

    An epoch cuts the text into blocks, from an offset that changes from epoch to epoch,
    and takes them in a random order (random_order.py). A batch may hold the end of one
    epoch and the start of the next.
    """

    def __init__(
        self, tokens: Tokens, *, block_size: int, batch_size: int, seed: int
    ) -> None:
        self.tokens = tokens
        self.block_size = block_size
        self.batch_size = batch_size
        self.seed = seed
        # One token less: the last target. One block less: the offset may skip it.
        self.blocks_per_epoch = (len(tokens) - 1) // block_size - 1
        if self.blocks_per_epoch < 1:
            raise InputError(
                f"{len(tokens):,} tokens are too few for blocks of {block_size:,} "
                f"(models.*.block_size in params.yaml)"
            )

    def batch(self, step: int, *, rows: slice = slice(None)) -> Batch:
        """Return inputs and targets of a step, of all of its sequences or of some."""
        return cut(self.sequences(step, rows=rows))

    def sequences(self, step: int, *, rows: slice = slice(None)) -> Sequences:
        """Return the sequences of a step.

        Args:
            step: Counted from 0.
            rows: The rows to return: a device asks for its own only.
        """
        first = step * self.batch_size
        numbers = np.arange(first, first + self.batch_size)[rows]
        return _read(self.tokens, self._starts_of(numbers), self.block_size)

    def _starts_of(self, numbers: NDArray[np.int64]) -> list[int]:
        """Return where in the text some of the training's sequences begin."""
        starts = np.empty_like(numbers)
        epochs, places = np.divmod(numbers, self.blocks_per_epoch)
        for epoch in np.unique(epochs).tolist():
            offset, order = _epoch(
                self.seed, epoch, self.blocks_per_epoch, self.block_size
            )
            is_here = epochs == epoch
            starts[is_here] = offset + order.at(places[is_here]) * self.block_size
        return starts.tolist()


@lru_cache(maxsize=2)  # a batch may hold the end of one epoch and the start of the next
def _epoch(
    seed: int, epoch: int, num_blocks: int, block_size: int
) -> tuple[int, RandomOrder]:
    """Return the offset of an epoch's first block, and the order of its blocks."""
    random = np.random.default_rng((seed, epoch))
    return int(random.integers(block_size)), RandomOrder(num_blocks, random)


class SpreadBatches:
    """Whole blocks in reading order, spread evenly over all of the text.

    A batch is read when it is asked for. If `max_tokens` is at least the length of the
    text, every block comes once.
    """

    def __init__(
        self, tokens: Tokens, *, block_size: int, batch_size: int, max_tokens: int
    ) -> None:
        self.tokens = tokens
        self.block_size = block_size
        available = (len(tokens) - 1) // block_size
        num_blocks = min(available, max_tokens // block_size)
        starts = [
            number * available // num_blocks * block_size
            for number in range(num_blocks)
        ]
        self._starts = [
            starts[first : first + batch_size]
            for first in range(0, num_blocks, batch_size)
        ]

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> Sequences:
        """Return the sequences of a batch."""
        return _read(self.tokens, self._starts[number], self.block_size)


def _read(tokens: Tokens, starts: Iterable[int], block_size: int) -> Sequences:
    """Return the blocks that begin there, each with the token after it."""
    rows = np.stack([tokens[start : start + block_size + 1] for start in starts])
    return torch.from_numpy(rows)
