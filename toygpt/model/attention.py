"""Attention: how a token gathers information from the tokens before it.

Vaswani et al., 2017, "Attention Is All You Need", section 3.2
(https://arxiv.org/abs/1706.03762).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Heads = Float[Tensor, "batch head time head_dim"]


def attention_from_scratch(query: Heads, key: Heads, value: Heads) -> Heads:
    """Compute softmax(Q Kᵀ / √head_dim) V, where no token sees a later one.

    Formula (1) of Vaswani et al., 2017, with the mask of section 3.2.3. Written to be
    learned from: the whole table of scores, time by time, exists at once.
    """
    time, head_dim = query.shape[-2:]
    scores = query @ key.transpose(-2, -1) / math.sqrt(head_dim)

    is_later = torch.ones(time, time, dtype=torch.bool, device=query.device).triu(1)
    weights = scores.masked_fill(is_later, -torch.inf).softmax(dim=-1)
    return weights @ value


def flash_attention(query: Heads, key: Heads, value: Heads) -> Heads:
    """Compute the same tile by tile, without ever holding the table of scores.

    Dao et al., 2022, "FlashAttention" (https://arxiv.org/abs/2205.14135).
    """
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


ATTENTIONS: dict[str, Callable[[Heads, Heads, Heads], Heads]] = {
    "flash": flash_attention,
    "from_scratch": attention_from_scratch,
}


class CausalSelfAttention(nn.Module):
    """Several attentions side by side, each in its own part of the channels."""

    def __init__(self, *, embed_dim: int, num_heads: int, attention: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attend = ATTENTIONS[attention]
        self.to_query = nn.Linear(embed_dim, embed_dim)
        self.to_key = nn.Linear(embed_dim, embed_dim)
        self.to_value = nn.Linear(embed_dim, embed_dim)
        self.to_output = nn.Linear(embed_dim, embed_dim)

    def forward(
        self, x: Float[Tensor, "batch time channels"]
    ) -> Float[Tensor, "batch time channels"]:
        """Mix information along time; no token sees a later one."""
        query, key, value = (
            self._split_heads(part)
            for part in (self.to_query(x), self.to_key(x), self.to_value(x))
        )
        return self.to_output(self._join_heads(self.attend(query, key, value)))

    def _split_heads(self, x: Float[Tensor, "batch time channels"]) -> Heads:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _join_heads(self, x: Heads) -> Float[Tensor, "batch time channels"]:
        return x.transpose(1, 2).flatten(start_dim=2)
