"""What attention need not compute again, while texts are written."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Not as in attention.py: this order comes out of one product for all heads, and goes
# into the cache as it is.
HeadsByToken = Float[Tensor, "batch time head head_dim"]
KeysAndValuesByToken = Float[Tensor, "batch time 2 head head_dim"]


class KeyValueCache:
    """The keys and values of all tokens so far, in all layers, while texts are written.

    A token's key and value depend on nothing that comes later: they are computed once
    and looked at by every later token. Each text has a row, and each of its tokens the
    column of its position: texts of different lengths go on side by side.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_texts: int,
        num_heads: int,
        num_tokens: int,
        head_dim: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.lengths = [0] * num_texts  # the tokens of each text that it holds
        # Room for all tokens at once: growing would copy all, for every token. Zeros,
        # since what no token has filled is multiplied by the weight zero.
        shape = (num_layers, num_texts, num_tokens, 2, num_heads, head_dim)
        self._kept = torch.zeros(shape, device=device, dtype=dtype)
        # Of the tokens that are being read:
        self.positions: slice | Tensor = slice(0)
        self._is_beginning = True
        self._place: tuple[slice | Tensor, slice | Tensor] = (slice(0), slice(0))
        self._seen: tuple[slice | Tensor, slice] = (slice(0), slice(0))
        self._is_seen: Tensor | None = None  # None: all of what is in there

    def make_room(self, rows: Sequence[int], num_new: Sequence[int]) -> None:
        """Say which texts go on, before all layers read their next tokens.

        Texts begin together, or go on together. Beginnings may be filled up at their
        end: no token looks at what comes later, and the next token takes its place.

        Args:
            rows: Of the texts, in ascending order.
            num_new: How many tokens of each come next; later on they come one by one.
        """
        starts = [self.lengths[row] for row in rows]
        ends = [start + num for start, num in zip(starts, num_new, strict=True)]
        self._is_beginning = not any(starts)
        # Nothing would hide the second of two new tokens from the first.
        assert self._is_beginning or (all(starts) and set(num_new) == {1})
        assert max(ends) <= self._kept.shape[2], "a full cache takes no more tokens"
        for row, end in zip(rows, ends, strict=True):
            self.lengths[row] = end

        device = self._kept.device
        is_all = len(rows) == len(self.lengths)
        which = slice(None) if is_all else torch.tensor(rows, device=device)
        self._seen = (which, slice(max(ends)))
        if len(set(starts)) == 1:  # a slice is looked at in place, without a copy
            self.positions = slice(starts[0], max(ends))
            self._place = (which, self.positions)
            self._is_seen = None
        else:
            self.positions = torch.tensor(starts, device=device)[:, None]
            self._place = (torch.tensor(rows, device=device)[:, None], self.positions)
            columns = torch.arange(max(ends), device=device)
            self._is_seen = (columns <= self.positions)[:, None, None]

    def attend(
        self, layer: int, query: HeadsByToken, keys_and_values: KeysAndValuesByToken
    ) -> HeadsByToken:
        """Keep what a layer made of the newest tokens, and let them look back.

        The newest token of a text comes after all others: nothing is to be hidden from
        it. Only at the beginning, where many are read at once, is there a later one.
        """
        kept = self._kept[layer]
        kept[self._place] = keys_and_values
        if not self._is_beginning:
            keys_and_values = kept[self._seen]
        keys, values = keys_and_values.unbind(2)
        return F.scaled_dot_product_attention(
            query.transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=self._is_seen,
            is_causal=self._is_beginning,
        ).transpose(1, 2)

    def forget(self, row: int) -> None:
        """Let a text begin anew."""
        self.lengths[row] = 0

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all texts but these, and close the gaps."""
        self.lengths = [self.lengths[row] for row in rows]
        self._kept = self._kept[:, rows]
