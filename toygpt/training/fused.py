"""The faster forms of the network for training in 16 bits: `train.kernels: fused`.

The network in model/ is written to be read. A good part of a step's time goes into
moving numbers between memory and processor, and into starting small kernels. Each
function here replaces a method of one of its modules by a form that moves less; the
weights, and what is computed with them, stay. What each brings was measured on an H100,
with `small`, 64 sequences of 512 tokens, in bf16 (docs/decisions/training.md, which has
the figures of a CPU as well).
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from toygpt.model.attention import Attention, CausalSelfAttention
from toygpt.model.gpt import GPT, FeedForward
from toygpt.training.output_loss import output_loss
from toygpt.training.precision import dtype_of_products


class FusedNextTokenLoss(nn.Module):
    """The network and its loss as one module, in their faster forms."""

    def __init__(self, model: GPT, device: torch.device) -> None:
        super().__init__()
        self.model = model
        fuse(model, device)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a micro-batch, in nats per token."""
        to_logits = self.model.to_logits
        x = self.model.read(inputs)
        return output_loss(x, to_logits.weight, to_logits.bias, targets)


def fuse(model: GPT, device: torch.device) -> None:
    """Replace methods of the model's modules by their faster forms, in place.

    Args:
        model: The network.
        device: Where it will be trained.
    """
    join_query_key_value(model)
    keep_stream_in_16_bits(model)
    if device.type == "cuda":  # a CPU takes a fifth longer for it
        put_relu_into_the_product(model)


def unfuse(model: GPT) -> None:
    """Give the modules the methods of their classes back."""
    for module in model.modules():
        vars(module).pop("forward", None)


def join_query_key_value(model: GPT) -> None:
    """Compute query, key and value as one product: 63.7 to 63.2 ms."""
    for module in model.modules():
        if isinstance(module, CausalSelfAttention):
            _replace_forward(module, attention_with_one_product)


def put_relu_into_the_product(model: GPT) -> None:
    """Drop what is negative before it is written to memory: about 1.5 ms, estimated."""
    for module in model.modules():
        if isinstance(module, FeedForward):
            _replace_forward(module, feed_forward_with_relu_inside)


def keep_stream_in_16_bits(model: GPT) -> None:
    """Pass the stream of vectors from block to block in bf16: 63.2 to 60.0 ms."""
    _replace_forward(model.dropout, dropout_in_16_bits)


def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> None:
    # An attribute of the object hides the method of its class.
    module.forward = MethodType(forward, module)


def attention_with_one_product(
    self: CausalSelfAttention,
    x: Float[Tensor, "batch time channels"],
    attend: Attention | None = None,
) -> Float[Tensor, "batch time channels"]:
    """Do what CausalSelfAttention.forward does, with the three weights side by side.

    The parameters stay three, since Muon must see each as the matrix that it is; their
    gradients come back through `cat`. What it joins stays until the backward pass, also
    where weights are split.
    """
    layers = (self.to_query, self.to_key, self.to_value)
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    query, key, value = F.linear(x, weight, bias).chunk(3, dim=-1)
    mixed = (attend or self.attend)(
        self._split_heads(query), self._split_heads(key), self._split_heads(value)
    )
    return self.to_output(self._join_heads(mixed))


def feed_forward_with_relu_inside(
    self: FeedForward, x: Float[Tensor, "batch time channels"]
) -> Float[Tensor, "batch time channels"]:
    """Do what FeedForward.forward does: the hidden channels are written once."""
    dtype = dtype_of_products(x)
    hidden = ReluOfProduct.apply(
        x.flatten(0, 1).to(dtype),
        self.to_hidden.weight.to(dtype),
        self.to_hidden.bias.to(dtype),
    )
    return self.to_output(hidden.unflatten(0, x.shape[:2]))


class ReluOfProduct(torch.autograd.Function):
    """max(0, x Wᵀ + b), with the maximum taken where the product is computed.

    PyTorch knows the function but not its gradient. Autocast does not reach the
    backward pass, so all inputs have the type that is computed in.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "rows channels"],
        weight: Float[Tensor, "hidden channels"],
        bias: Float[Tensor, "hidden"],
    ) -> Float[Tensor, "rows hidden"]:
        """Return the hidden channels; those below zero are zero."""
        hidden = torch._addmm_activation(bias, x, weight.T)
        ctx.save_for_backward(x, weight, hidden)
        return hidden

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of the three inputs."""
        x, weight, hidden = ctx.saved_tensors
        gradient = torch.where(hidden > 0, gradients[0], 0)
        return gradient @ weight, gradient.T @ x, gradient.sum(dim=0)


def dropout_in_16_bits(
    self: nn.Dropout, x: Float[Tensor, "batch time channels"]
) -> Float[Tensor, "batch time channels"]:
    """Round the stream of vectors once, where it begins.

    The sum of embedding and position passes through this dropout (GPT.read). From here
    on each block adds its 16 bits to 16 bits. The norms still compute in 32.
    """
    return F.dropout(x.to(dtype_of_products(x)), self.p, self.training)
