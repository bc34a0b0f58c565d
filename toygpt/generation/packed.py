"""The same network once more, in the form that writes: one token after the other.

While a text is written, the network reads a single token at a time, and of a small one
half of the time goes into starting operations. So here its formulas (gpt.py says what
they mean) stand once more, in as few operations as possible: queries, keys and values
come out of one product, and nothing is there that only training needs.

On a processor the matrices are also packed: copied into the order in which its kernels
read them. docs/decisions/generation.md says what each of the two brings.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from toygpt.generation.kv_cache import KeyValueCache
from toygpt.model.gpt import GPT, Block


class InferenceGPT:
    """A GPT in the form that writes: it goes on from what a cache remembers.

    It computes what the GPT computes, up to rounding. Its weights are in part copies:
    make another after the GPT was trained on, or moved to another device.
    """

    def __init__(self, model: GPT) -> None:
        self.config = model.config
        self.device = model.positions.device
        self._embedding = model.token_embedding.weight.detach()
        self._positions = model.positions
        self._blocks = [InferenceBlock(cast("Block", block)) for block in model.blocks]
        self._final_norm = model.final_norm
        self.to_logits = Product(model.to_logits)

    def new_cache(self, num_texts: int, num_tokens: int | None = None) -> KeyValueCache:
        """Return what `read_on` needs to go on from where it was.

        Args:
            num_texts: How many texts it is for.
            num_tokens: How long each may get; None is as long as a block.
        """
        block_size = self.config.block_size
        return KeyValueCache(
            num_layers=self.config.num_layers,
            num_texts=num_texts,
            num_heads=self.config.num_heads,
            num_tokens=min(num_tokens or block_size, block_size),
            head_dim=self.config.embed_dim // self.config.num_heads,
            device=self.device,
            dtype=self._embedding.dtype,
        )

    def read_on(
        self,
        token_ids: Int[Tensor, "batch time"],
        cache: KeyValueCache,
    ) -> Float[Tensor, "batch time channels"]:
        """Return the vectors from which `to_logits` makes the logits.

        Args:
            token_ids: The tokens for which `cache.make_room` was called.
            cache: From `new_cache`, to go on from later.
        """
        x = torch.add(
            self._positions[cache.positions],
            F.embedding(token_ids, self._embedding),
            alpha=math.sqrt(self.config.embed_dim),
        )
        for layer, block in enumerate(self._blocks):
            x = block.read_on(x, cache, layer)
        return self._final_norm(x)


class InferenceBlock:
    """One layer: attention over all that the cache remembers, then feed-forward."""

    def __init__(self, block: Block) -> None:
        attention, feed_forward = block.attention, block.feed_forward
        self.num_heads = attention.num_heads
        self.attention_norm = block.attention_norm
        self.to_query_key_value = Product(
            attention.to_query, attention.to_key, attention.to_value
        )
        self.attention_output = Product(attention.to_output)
        self.feed_forward_norm = block.feed_forward_norm
        self.to_hidden = Product(feed_forward.to_hidden)
        self.feed_forward_output = Product(feed_forward.to_output)

    def read_on(
        self, x: Float[Tensor, "batch time channels"], cache: KeyValueCache, layer: int
    ) -> Float[Tensor, "batch time channels"]:
        """Return the stream with what this layer has to add."""
        query_key_value = self.to_query_key_value(self.attention_norm(x))
        heads = query_key_value.unflatten(-1, (3, self.num_heads, -1))
        query, keys_and_values = heads[:, :, 0], heads[:, :, 1:]
        mixed = cache.attend(layer, query, keys_and_values)
        x = self.attention_output(mixed.flatten(start_dim=2), added_to=x)
        hidden = self.to_hidden(self.feed_forward_norm(x), relu=True)
        return self.feed_forward_output(hidden, added_to=x)


class Product:
    """What one or more linear layers make of the same input, side by side."""

    def __init__(self, *layers: nn.Linear) -> None:
        self.weight = _side_by_side([layer.weight.detach() for layer in layers])
        self.bias = _side_by_side([layer.bias.detach() for layer in layers])
        self.is_packed = self.weight.dtype == torch.float32 and can_pack(
            self.weight.device
        )
        if self.is_packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def __call__(
        self,
        x: Float[Tensor, "*batch inputs"],
        *,
        relu: bool = False,
        added_to: Float[Tensor, "*batch outputs"] | None = None,
    ) -> Float[Tensor, "*batch outputs"]:
        """Return x Wᵀ + b.

        Args:
            x: The input of all layers.
            relu: Whether what is negative becomes zero.
            added_to: What the result is added to; not with `relu`.
        """
        assert not relu or added_to is None, "the packed kernel does one of them"
        if self.is_packed:
            multiply = torch.ops.mkldnn._linear_pointwise
            if added_to is not None:
                return multiply.binary(x, added_to, self.weight, self.bias, "add")
            then = "relu" if relu else "none"
            return multiply.default(x, self.weight, self.bias, then, [], "")
        product = F.linear(x, self.weight, self.bias)
        if relu:
            product = F.relu(product)
        return product if added_to is None else added_to + product


def can_pack(device: torch.device) -> bool:
    """Say whether PyTorch has kernels for packed matrices there, of oneDNN's on x86.

    They are those that its compiler takes for inputs of any length.
    """
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    )


def _side_by_side(parts: list[Tensor]) -> Tensor:
    """Return the parts as one; of a single one no copy is made."""
    return torch.cat(parts) if len(parts) > 1 else parts[0]
