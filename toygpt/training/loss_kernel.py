"""The loss of a row of logits and its gradient, as one kernel of a GPU (Triton)."""
# mypy: allow-untyped-decorators

import triton
import triton.language as tl
from torch import Tensor

# Logits that a program of the GPU works on at once; a row is some of them.
BLOCK = 4096
NUM_WARPS = 8


def row_losses(
    logits: Tensor, bias: Tensor, targets: Tensor, losses: Tensor, *, scale: float
) -> None:
    """Write the loss of each row, and in the place of its logits their gradient.

    Args:
        logits: A row for each token; without their bias.
        bias: Of the logits, in 32 bits.
        targets: The true next token of each row.
        losses: Gets the loss of each row, in nats.
        scale: Of the gradients; at 0, the logits stay as they are.
    """
    num_rows, vocab_size = logits.shape
    _row_loss[(num_rows,)](
        logits,
        bias,
        targets,
        losses,
        vocab_size,
        scale,
        HAS_GRADIENTS=scale != 0,
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
    )


@triton.jit
def _row_loss(  # type: ignore[no-untyped-def]
    logits,
    bias,
    targets,
    losses,
    vocab_size,
    scale,
    HAS_GRADIENTS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """One row; the names without an index are addresses of memory.

    The first loop finds the sum of exponentials, relative to the highest logit so far
    (Milakov and Gimelshein, 2018, https://arxiv.org/abs/1805.02867, algorithm 3). The
    second reads the row again, from the cache: 100 KB are not gone by then.
    """
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocab_size
    target = tl.load(targets + row)
    highest = float("-inf")
    total = 0.0
    for start in range(0, vocab_size, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < vocab_size
        x = tl.load(logits + columns, mask=inside, other=float("-inf")).to(tl.float32)
        x += tl.load(bias + columns, mask=inside, other=0.0)
        new_highest = tl.maximum(highest, tl.max(x, axis=0))
        total *= tl.exp(highest - new_highest)
        total += tl.sum(tl.exp(x - new_highest), axis=0)
        highest = new_highest
    log_sum = highest + tl.log(total)
    wanted = tl.load(logits + target).to(tl.float32) + tl.load(bias + target)
    tl.store(losses + row, log_sum - wanted)
    if HAS_GRADIENTS:
        tl.debug_barrier()  # a logit is overwritten below; all have read the target's
        for start in range(0, vocab_size, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < vocab_size
            x = tl.load(logits + columns, mask=inside, other=float("-inf"))
            x = x.to(tl.float32) + tl.load(bias + columns, mask=inside, other=0.0)
            probability = tl.exp(x - log_sum)
            gradient = scale * tl.where(columns == target, probability - 1, probability)
            gradient = gradient.to(logits.dtype.element_ty)
            tl.store(logits + columns, gradient, mask=inside)
