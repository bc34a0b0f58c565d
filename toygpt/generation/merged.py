"""Merge small products: the same network in fewer kernels, faster on a GPU.

For one token a kernel takes a few microseconds, most of them to start and to end. Here
query, key and value are one product instead of three, and ReLU is computed where its
input is made: 14 kernels a block become 11. packed.py uses it on a GPU of CUDA.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from toygpt.model.attention import Attention, CausalSelfAttention
from toygpt.model.gpt import GPT, Block, FeedForward


def merge(model: GPT) -> None:
    """Replace the layers of a model, which is for inference alone from now on.

    The weights of query, key and value are copied, side by side; all others stay.
    """
    for block in model.blocks:
        assert isinstance(block, Block)
        block.attention = MergedAttention(block.attention)
        block.feed_forward = MergedFeedForward(block.feed_forward)


class MergedAttention(CausalSelfAttention):
    """Attention whose query, key and value are one product."""

    def __init__(self, attention: CausalSelfAttention) -> None:
        nn.Module.__init__(self)
        self.num_heads = attention.num_heads
        self.attend = attention.attend
        self.to_output = attention.to_output
        layers = (attention.to_query, attention.to_key, attention.to_value)
        self.weight = torch.cat([layer.weight.detach() for layer in layers])
        self.bias = torch.cat([layer.bias.detach() for layer in layers])

    def forward(
        self, x: Float[Tensor, "batch time channels"], attend: Attention | None = None
    ) -> Float[Tensor, "batch time channels"]:
        """Mix information along time; no token sees a later one."""
        parts = F.linear(x, self.weight, self.bias).chunk(3, dim=-1)
        query, key, value = (self._split_heads(part) for part in parts)
        mixed = (attend or self.attend)(query, key, value)
        return self.to_output(self._join_heads(mixed))


class MergedFeedForward(FeedForward):
    """A feed-forward layer whose ReLU is part of the product before it."""

    def __init__(self, feed_forward: FeedForward) -> None:
        nn.Module.__init__(self)
        self.to_hidden = feed_forward.to_hidden
        self.to_output = feed_forward.to_output

    def forward(
        self, x: Float[Tensor, "batch time channels"]
    ) -> Float[Tensor, "batch time channels"]:
        """Widen, drop what is negative, narrow."""
        # Not documented by PyTorch, hence used here alone, and tested.
        hidden = torch._addmm_activation(
            self.to_hidden.bias, x.flatten(0, 1), self.to_hidden.weight.T
        )
        return self.to_output(hidden.unflatten(0, x.shape[:2]))
