"""Attention: how a token gathers information from the tokens before it.

Each token asks a question (its query), and each token offers a label (its key) and
something to hand over (its value). How well a label answers a question is a score,
their dot product. A token takes home a mean of all values up to its own, weighted by
the softmax of the scores:

    attention(Q, K, V) = softmax(Q Kᵀ / √head_dim) V

This is formula (1) of Vaswani et al., 2017, "Attention Is All You Need"
(https://arxiv.org/abs/1706.03762), with the mask of its section 3.2.3: no token sees a
later one. Dividing by √head_dim keeps the scores' spread at about one, however many
channels a head has.

Below, the same formula is computed four times, in four steps of a ladder:

1. `attention_one_by_one`: one query at a time, in plain loops;
2. `attention_from_scratch`: all queries at once, as matrices;
3. `attention_in_tiles`: never more than a tile of the scores at once (FlashAttention);
4. `flash_attention`: the same in one line, done by the GPU or CPU's own kernel.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Heads = Float[Tensor, "batch head time head_dim"]
Index = tuple[slice | Tensor, ...]


def attention_one_by_one(query: Heads, key: Heads, value: Heads) -> Heads:
    """Let one token after the other look back, at one token after the other."""
    time, head_dim = query.shape[-2:]
    mixed = []
    for now in range(time):
        seen = range(now + 1)
        scores = [
            (query[:, :, now] * key[:, :, past]).sum(dim=-1) / math.sqrt(head_dim)
            for past in seen
        ]
        weights = torch.stack(scores, dim=-1).softmax(dim=-1)
        gathered = torch.zeros_like(value[:, :, now])
        for past in seen:
            gathered = gathered + weights[:, :, past, None] * value[:, :, past]
        mixed.append(gathered)
    return torch.stack(mixed, dim=-2)


def attention_from_scratch(query: Heads, key: Heads, value: Heads) -> Heads:
    """Let all tokens look back at once: the loops become products of matrices.

    The whole table of scores, time by time, exists at once. A score of minus infinity
    gets the weight zero: that hides what comes later.
    """
    head_dim = query.shape[-1]
    scores = query / math.sqrt(head_dim) @ key.transpose(-2, -1)

    hide_later = torch.full_like(scores[0, 0], -torch.inf).triu(1)  # else zero
    weights = (scores + hide_later).softmax(dim=-1)
    return weights @ value


def attention_in_tiles(
    query: Heads, key: Heads, value: Heads, *, tile: int = 16
) -> Heads:
    """Compute the same without ever holding more than a tile of the scores.

    A softmax needs the sum over all scores, but the scores come tile by tile. So keep,
    for each query, the highest score so far and the sums relative to it; when a higher
    one comes, scale down what was summed up. This online softmax (Milakov and
    Gimelshein, 2018, https://arxiv.org/abs/1805.02867, algorithm 3) makes it
    FlashAttention (Dao et al., 2022, https://arxiv.org/abs/2205.14135; the loops are in
    the order of Dao, 2023, https://arxiv.org/abs/2307.08691, algorithm 1): on a GPU a
    tile fits into the fast memory beside the processor, so that the table of scores
    never travels through the slow one.
    """
    time, head_dim = query.shape[-2:]
    position = torch.arange(time, device=query.device)
    edges = [*range(0, time, tile), time]
    mixed = []
    for first, last in pairwise(edges):
        query_tile = query[:, :, first:last] / math.sqrt(head_dim)
        highest = torch.full_like(query_tile[..., :1], -torch.inf)
        sum_of_weights = torch.zeros_like(highest)
        weighted_sum = torch.zeros_like(query_tile)
        # Only the tiles up to our own: all that comes after it is hidden anyway.
        for start, end in pairwise(edge for edge in edges if edge <= last):
            key_tile, value_tile = key[:, :, start:end], value[:, :, start:end]
            scores = query_tile @ key_tile.transpose(-2, -1)
            is_later = position[start:end] > position[first:last, None]
            scores = scores.masked_fill(is_later, -torch.inf)

            new_highest = torch.maximum(highest, scores.amax(dim=-1, keepdim=True))
            scale = (highest - new_highest).exp()
            weights = (scores - new_highest).exp()
            sum_of_weights = sum_of_weights * scale + weights.sum(dim=-1, keepdim=True)
            weighted_sum = weighted_sum * scale + weights @ value_tile
            highest = new_highest
        mixed.append(weighted_sum / sum_of_weights)
    return torch.cat(mixed, dim=-2)


def flash_attention(query: Heads, key: Heads, value: Heads) -> Heads:
    """Compute the same tile by tile, in a kernel made for the processor at hand."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


# What `train.attention` in params.yaml may name; the others are for reading.
ATTENTIONS: dict[str, Callable[[Heads, Heads, Heads], Heads]] = {
    "flash": flash_attention,
    "from_scratch": attention_from_scratch,
}


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
        block_size: int,
        head_dim: int,
        device: torch.device | None = None,
    ) -> None:
        self.lengths = [0] * num_texts  # the tokens of each text that it holds
        # Room for whole blocks at once: growing would copy all, for every token. Zeros,
        # since what no token has filled is multiplied by the weight zero.
        shape = (num_layers, num_texts, num_heads, block_size, head_dim)
        self._keys = torch.zeros(shape, device=device)
        self._values = torch.zeros(shape, device=device)
        # Of the tokens that are being read:
        self.positions: slice | Tensor = slice(0)
        self.is_beginning = True
        self._place: Index = ()
        self._seen: Index = ()
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
        self.is_beginning = not any(starts)
        # Nothing would hide the second of two new tokens from the first.
        assert self.is_beginning or (all(starts) and set(num_new) == {1})
        assert max(ends) <= self._keys.shape[3], "a full cache takes no more tokens"
        for row, end in zip(rows, ends, strict=True):
            self.lengths[row] = end

        device = self._keys.device
        is_all = len(rows) == len(self.lengths)
        which = slice(None) if is_all else torch.tensor(rows, device=device)
        self._seen = (which, slice(None), slice(max(ends)))
        if len(set(starts)) == 1:  # a slice is looked at in place, without a copy
            self.positions = slice(starts[0], max(ends))
            self._place = (which, self.positions)
            self._is_seen = None
        else:
            self.positions = torch.tensor(starts, device=device)[:, None]
            self._place = (torch.tensor(rows, device=device)[:, None], self.positions)
            columns = torch.arange(max(ends), device=device)
            self._is_seen = (columns <= self.positions)[:, None, None]

    def append(self, layer: int, key: Heads, value: Heads) -> None:
        """Keep what a layer has made of the newest tokens."""
        self._keys[layer].transpose(1, 2)[self._place] = key.transpose(1, 2)
        self._values[layer].transpose(1, 2)[self._place] = value.transpose(1, 2)

    def attend(self, layer: int, query: Heads) -> Heads:
        """Let the newest token of each text look back at all of it, itself included.

        It comes after all others: nothing is to be hidden from it, so that all steps of
        the ladder would come down to this.
        """
        keys, values = self._keys[layer][self._seen], self._values[layer][self._seen]
        return F.scaled_dot_product_attention(
            query, keys, values, attn_mask=self._is_seen
        )

    def forget(self, row: int) -> None:
        """Let a text begin anew."""
        self.lengths[row] = 0

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all texts but these, and close the gaps."""
        self.lengths = [self.lengths[row] for row in rows]
        self._keys, self._values = self._keys[:, rows], self._values[:, rows]


class CausalSelfAttention(nn.Module):
    """Multi-head attention: several side by side, each in its own part of the channels.

    Vaswani et al., 2017, section 3.2.2.
    """

    def __init__(self, *, embed_dim: int, num_heads: int, attention: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attend = ATTENTIONS[attention]
        self.to_query = nn.Linear(embed_dim, embed_dim)
        self.to_key = nn.Linear(embed_dim, embed_dim)
        self.to_value = nn.Linear(embed_dim, embed_dim)
        self.to_output = nn.Linear(embed_dim, embed_dim)

    def forward(
        self,
        x: Float[Tensor, "batch time channels"],
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "batch time channels"]:
        """Mix information along time; no token sees a later one.

        Args:
            x: All tokens; with a cache that holds some already, the one after them.
            cache: Remembers the keys and values of the tokens it has seen.
            layer: Whose keys and values these are.
        """
        query, key, value = (
            self._split_heads(part)
            for part in (self.to_query(x), self.to_key(x), self.to_value(x))
        )
        if cache is not None:
            cache.append(layer, key, value)
        if cache is None or cache.is_beginning:
            mixed = self.attend(query, key, value)
        else:
            mixed = cache.attend(layer, query)
        return self.to_output(self._join_heads(mixed))

    def _split_heads(self, x: Float[Tensor, "batch time channels"]) -> Heads:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _join_heads(self, x: Heads) -> Float[Tensor, "batch time channels"]:
        return x.transpose(1, 2).flatten(start_dim=2)
