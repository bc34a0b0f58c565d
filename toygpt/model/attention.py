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

All four give the same, up to rounding:

>>> heads = torch.randn(3, 1, 2, 20, 8)  # query, key and value of 20 tokens, 2 heads
>>> one_by_one = attention_one_by_one(*heads)
>>> for attention in (attention_from_scratch, attention_in_tiles, flash_attention):
...     print(torch.allclose(attention(*heads), one_by_one, atol=1e-5))
True
True
True
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# A tensor's axes, in words: sequences of the batch, heads, positions in time, channels
# of a head. jaxtyping checks such shapes while the tests run: within one call, the same
# word stands for the same length.
Heads = Float[Tensor, "batch head time head_dim"]
# A function of query, key and value.
Attention = Callable[[Heads, Heads, Heads], Heads]


def attention_one_by_one(query: Heads, key: Heads, value: Heads) -> Heads:
    """Compute token after token, each looking back at one token after the other."""
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
    """Compute all tokens at once: the loops become products of matrices."""
    weights = attention_scores(query, key).softmax(dim=-1)
    return weights @ value


def attention_scores(query: Heads, key: Heads) -> Float[Tensor, "batch head time time"]:
    """Score at once how well each token's key answers each token's query.

    The whole table of scores, time by time, exists at once. A score of minus infinity
    gets the weight zero: that hides later tokens.
    """
    head_dim = query.shape[-1]
    scores = query / math.sqrt(head_dim) @ key.transpose(-2, -1)
    hide_later = torch.full_like(scores[0, 0], -torch.inf).triu(1)  # else zero
    return scores + hide_later


def attention_in_tiles(
    query: Heads, key: Heads, value: Heads, *, tile: int = 16
) -> Heads:
    """Compute the same without ever holding more than a tile of the scores.

    A softmax needs the sum over all scores, but the scores come tile by tile. So keep,
    for each query, the highest score so far and the sums relative to it; when a higher
    one comes, scale the sums down. This online softmax (Milakov and
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
    # `pairwise` goes through neighbours: the first and the last edge of each tile.
    for first, last in pairwise(edges):
        query_tile = query[:, :, first:last] / math.sqrt(head_dim)
        highest = torch.full_like(query_tile[..., :1], -torch.inf)
        sum_of_weights = torch.zeros_like(highest)
        weighted_sum = torch.zeros_like(query_tile)
        # Only the tiles up to this one: all later tokens are hidden anyway.
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


# What `train.attention` in params.yaml may name: a function is a value like any other,
# and this dict finds it by its name. The other two are for reading.
ATTENTIONS: dict[str, Attention] = {
    "flash": flash_attention,
    "from_scratch": attention_from_scratch,
}


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
        self, x: Float[Tensor, "batch time channels"], attend: Attention | None = None
    ) -> Float[Tensor, "batch time channels"]:
        """Mix information along time; no token sees a later one.

        With `attend` in place of the layer's own attention, tokens that were read
        before are seen as well: generation/kv_cache.py keeps their keys and values.
        """
        query = self._split_heads(self.to_query(x))
        key = self._split_heads(self.to_key(x))
        value = self._split_heads(self.to_value(x))
        mixed = (attend or self.attend)(query, key, value)
        return self.to_output(self._join_heads(mixed))

    def _split_heads(self, x: Float[Tensor, "batch time channels"]) -> Heads:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _join_heads(self, x: Heads) -> Float[Tensor, "batch time channels"]:
        return x.transpose(1, 2).flatten(start_dim=2)
