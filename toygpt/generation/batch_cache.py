"""The key/value cache of many sequences at once, with room for all their tokens."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from toygpt.model.attention import Heads
from toygpt.model.gpt import GPT, Cache


class BatchCache(Cache):
    """The keys and values of all tokens so far, in all layers, of many sequences.

    Each sequence has a row, and each of its tokens the column of its position:
    sequences of different lengths lie side by side. Before the network reads the next
    tokens, `prepare_prefill` or `prepare_decode_step` says which sequences they are of.
    """

    def __init__(self, model: GPT, *, num_sequences: int, max_tokens: int) -> None:
        config = model.config
        self.lengths = [0] * num_sequences  # tokens of each sequence in the cache
        # Room for all tokens at once: to grow would copy all, for every token. Zeros,
        # since an empty column is multiplied by the weight zero: zero times NaN is NaN.
        self._keys, self._values = torch.zeros(
            2,
            config.num_layers,
            num_sequences,
            min(max_tokens, config.block_size),
            config.num_heads,
            config.embed_dim // config.num_heads,
            device=model.device,
            dtype=model.positions.dtype,
        )
        layers = range(config.num_layers)
        super().__init__(slice(0), [partial(self._attend, layer) for layer in layers])
        # Of the tokens that are read next, set by `prepare_...`:
        self._is_prefill: bool
        self._place: tuple[slice | Tensor, slice | Tensor]
        self._visible: tuple[slice | Tensor, slice]
        self._is_visible: Tensor | None  # None: all columns of `_visible`

    def prepare_prefill(self, rows: Sequence[int], num_tokens: Sequence[int]) -> None:
        """Expect the first tokens of some sequences.

        Shorter ones are padded at their end: no token sees a later one, and the next
        token takes the place of the padding.

        Args:
            rows: The empty rows of these sequences, in ascending order.
            num_tokens: How many tokens of each come next.
        """
        assert not any(self.lengths[row] for row in rows)
        for row, num in zip(rows, num_tokens, strict=True):
            self.lengths[row] = num
        self.positions = slice(max(num_tokens))
        self._place = (self._select(rows), self.positions)
        self._is_visible = None
        self._is_prefill = True

    def prepare_decode_step(self, rows: Sequence[int]) -> None:
        """Expect one token of each of some sequences.

        Args:
            rows: The rows of these sequences, in ascending order, none of them empty.
        """
        starts = [self.lengths[row] for row in rows]
        longest = max(starts) + 1
        assert all(starts), "a sequence begins with a prefill"
        assert longest <= self._keys.shape[2], "a full cache takes no more tokens"
        for row in rows:
            self.lengths[row] += 1
        self._is_prefill = False
        self._visible = (self._select(rows), slice(longest))
        if len(set(starts)) == 1:  # a slice is read in place, without a copy
            self.positions = slice(starts[0], longest)
            self._place = (self._select(rows), self.positions)
            self._is_visible = None
        else:
            device = self._keys.device
            self.positions = torch.tensor(starts, device=device)[:, None]
            self._place = (torch.tensor(rows, device=device)[:, None], self.positions)
            columns = torch.arange(longest, device=device)
            self._is_visible = (columns <= self.positions)[:, None, None]

    def clear(self, row: int) -> None:
        """Empty the row of a sequence, for another prefill."""
        self.lengths[row] = 0

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all sequences but these, and close the gaps."""
        self.lengths = [self.lengths[row] for row in rows]
        self._keys, self._values = self._keys[:, rows], self._values[:, rows]

    def _attend(self, layer: int, query: Heads, key: Heads, value: Heads) -> Heads:
        """Keep the newest tokens' keys and values; mix the values of all tokens."""
        keys, values = self._keys[layer], self._values[layer]
        keys[self._place] = key.transpose(1, 2)
        values[self._place] = value.transpose(1, 2)
        if not self._is_prefill:
            key = keys[self._visible].transpose(1, 2)
            value = values[self._visible].transpose(1, 2)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=self._is_visible, is_causal=self._is_prefill
        )

    def _select(self, rows: Sequence[int]) -> slice | Tensor:
        """Return an index of these rows; of all rows, a slice, which copies nothing."""
        if len(rows) == len(self.lengths):
            return slice(None)
        return torch.tensor(rows, device=self._keys.device)
