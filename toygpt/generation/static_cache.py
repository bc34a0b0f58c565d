"""The key/value cache of many sequences with every tensor at a fixed address.

What changes from token to token is the content of tensors, never a shape or a number in
Python: so one decode step can be captured and replayed (graph.py). gpt-fast and the
`StaticCache` of transformers do the same.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from toygpt.model.attention import Heads
from toygpt.model.gpt import GPT, Cache

# PyTorch's memory-efficient attention would copy a mask of any other width.
ALIGNMENT = 16

# Where to write: the rows of some sequences.
Rows = slice | Tensor


class StaticCache(Cache):
    """The keys and values of many sequences, and the position of each as a tensor.

    Each sequence has a row, and each of its tokens the column of its position, as in
    batch_cache.py. But a decode step reads all rows, and all columns: a mask hides
    those after the position. A GPU has time for that.
    """

    positions: Tensor  # of the token that each sequence reads next: batch, 1

    def __init__(self, model: GPT, *, num_sequences: int, max_tokens: int) -> None:
        config, device, dtype = model.config, model.device, model.positions.dtype
        tiles = -(-min(max_tokens, config.block_size) // ALIGNMENT)  # rounded up
        num_columns = tiles * ALIGNMENT
        # Zeros, since a hidden value is multiplied by the weight zero.
        self._keys, self._values = torch.zeros(
            2,
            config.num_layers,
            num_sequences,
            num_columns,
            config.num_heads,
            config.embed_dim // config.num_heads,
            device=device,
            dtype=dtype,
        )
        positions = torch.zeros(num_sequences, 1, dtype=torch.long, device=device)
        self._view = View(positions, num_columns, dtype)
        # No layer refers to this cache: without a circle, its memory is free at once.
        layers = zip(self._keys, self._values, strict=True)
        super().__init__(positions, [partial(attend, self._view, *of) for of in layers])

    def look_up_positions(self) -> None:
        """Compute what all layers need to know of the positions, once for a step."""
        self._view.update()

    def for_prefill(self, rows: Rows, num_tokens: int) -> Cache:
        """Return a cache by which some rows read their first tokens.

        Padding at the end of shorter sequences is hidden until it is overwritten.
        """
        layers = zip(self._keys, self._values, strict=True)
        return Cache(slice(num_tokens), [partial(fill, rows, *of) for of in layers])


class View:
    """Where the next token of each sequence is written, and which columns it sees."""

    def __init__(self, positions: Tensor, num_columns: int, dtype: torch.dtype) -> None:
        device = positions.device
        self._positions = positions
        self._starts = num_columns * torch.arange(len(positions), device=device)
        # Added to scores: row p of this matrix hides the columns after position p.
        shape = (num_columns, num_columns)
        hidden = torch.full(shape, -torch.inf, device=device, dtype=dtype)
        self._hide_later = hidden.triu(1)
        self.update()

    def update(self) -> None:
        """Follow the positions."""
        # Places in a cache whose rows lie one behind the other.
        self.places = self._starts + self._positions[:, 0]
        self.mask = self._hide_later[self._positions][:, None]


def fill(
    rows: Rows, keys: Tensor, values: Tensor, query: Heads, key: Heads, value: Heads
) -> Heads:
    """Keep the first tokens' keys and values; no token sees a later one."""
    columns = slice(key.shape[2])
    keys[rows, columns] = key.transpose(1, 2)
    values[rows, columns] = value.transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def attend(
    view: View, keys: Tensor, values: Tensor, query: Heads, key: Heads, value: Heads
) -> Heads:
    """Keep the newest token's key and value; mix the values of all tokens so far."""
    keys.flatten(0, 1).index_copy_(0, view.places, key[:, :, 0])
    values.flatten(0, 1).index_copy_(0, view.places, value[:, :, 0])
    return F.scaled_dot_product_attention(
        query, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=view.mask
    )
