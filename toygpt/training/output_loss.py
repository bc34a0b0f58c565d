"""The output layer and its loss as one function: the logits are in memory once.

For each token there are as many logits as the vocabulary has tokens: 3.3 GB in 16 bits
for 64 sequences of 512 tokens. Written out, they are read and written again and again:
for the bias, for the softmax, for the gradient. Here one kernel computes the loss of a
row and puts the logits' gradient in their place, while the row is in the GPU's cache.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from toygpt.training.precision import dtype_of_products

# GPUs multiply matrices in tiles. For 50,257 columns an old, slow kernel is chosen.
MULTIPLE = 64


def output_loss(
    x: Float[Tensor, "batch time channels"],
    weight: Float[Tensor, "vocab channels"],
    bias: Float[Tensor, "vocab"],
    targets: Int[Tensor, "batch time"],
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the logits `x weightᵀ + bias`, in nats.

    `next_token_loss(to_logits(x), targets)` in model/gpt.py is the same. The vocabulary
    is padded here, with tokens of probability zero (a bias of -inf), so that the
    network and its checkpoint keep the size that they have. Without gradients, as in
    validation, none are computed.
    """
    dtype = dtype_of_products(x)
    padding = -len(weight) % MULTIPLE
    in_32_bits = torch.promote_types(bias.dtype, torch.float32)
    loss, _ = _loss_and_logit_gradients(
        x.flatten(0, 1).to(dtype),
        F.pad(weight.to(dtype), (0, 0, 0, padding)),
        F.pad(bias.to(in_32_bits), (0, padding), value=-torch.inf),
        targets.flatten(),
        torch.is_grad_enabled(),
    )
    return loss


# An operator of its own: torch.compile calls it as it is, and knows its gradient.
@torch.library.custom_op("toygpt::output_loss", mutates_args=())
def _loss_and_logit_gradients(
    x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, needs_gradients: bool
) -> tuple[Tensor, Tensor]:
    """Return the mean loss, and the gradient of the logits if it is needed."""
    logits = x @ weight.T
    scale = 1 / len(targets) if needs_gradients else 0.0
    losses = torch.empty(len(targets), dtype=bias.dtype, device=x.device)
    if x.is_cuda:
        from toygpt.training.loss_kernel import row_losses

        row_losses(logits, bias, targets, losses, scale=scale)
    else:
        row_losses_in_pytorch(logits, bias, targets, losses, scale=scale)
    return losses.mean(), logits if needs_gradients else logits.new_empty(0)


def row_losses_in_pytorch(
    logits: Tensor, bias: Tensor, targets: Tensor, losses: Tensor, *, scale: float
) -> None:
    """Write what the kernel in loss_kernel.py writes."""
    scores = logits + bias
    log_sums = scores.logsumexp(dim=-1, keepdim=True)
    of_targets = scores.gather(-1, targets[:, None])
    losses.copy_((log_sums - of_targets).flatten())
    if scale:
        gradients = scores.sub_(log_sums).exp_()
        gradients[torch.arange(len(targets)), targets] -= 1
        logits.copy_(gradients.mul_(scale))


@_loss_and_logit_gradients.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, needs_gradients: bool
) -> tuple[Tensor, Tensor]:
    """Return tensors of the same shapes, for torch.compile."""
    shape = (len(x), len(weight)) if needs_gradients else (0,)
    return bias.new_empty(()), x.new_empty(shape)


def _save_for_backward(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, *_ = inputs
    _, logit_gradients = output
    ctx.save_for_backward(x, weight, logit_gradients)
    ctx.mark_non_differentiable(logit_gradients)
    ctx.set_materialize_grads(False)  # else gigabytes of zeros for `logit_gradients`


def _backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor | None, ...]:
    x, weight, logit_gradients = ctx.saved_tensors
    to_x = logit_gradients @ weight
    to_weight = logit_gradients.T @ x
    to_bias = logit_gradients.sum(dim=0, dtype=gradient.dtype)
    return gradient * to_x, gradient * to_weight, gradient * to_bias, None, None


_loss_and_logit_gradients.register_autograd(_backward, setup_context=_save_for_backward)
