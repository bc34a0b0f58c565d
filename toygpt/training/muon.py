"""Muon with fewer operations for wide matrices, and on a GPU all of a shape at once.

Where several ranks share its work, owners.py says how.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Muon
from torch.optim._muon import _adjust_lr

from toygpt.training.owners import Owned, Owners, Update, owners_of, rounds
from toygpt.training.sharding import rows_of

# In 16 bits, the Gram matrix drifts away from what it stands for; after so many
# iterations it is computed again.
RESTART_AFTER = 3


class FastMuon(Muon):
    """What torch.optim.Muon does, in less time.

    A GPU waits longer for the start of a small product than it takes to compute it: the
    72 matrices of `small` took 28.1 ms one after another, and 7.4 ms in stacks (H100).
    A CPU does not wait. There a stack is slower, and only the Gram form of wide
    matrices gains: a tenth of Muon's time for `nano`.

    Groups and state are those of `torch.optim.Muon`: each resumes what the other has
    begun. PyTorch plans a version of its own in stacks; then this class can go
    (https://github.com/pytorch/pytorch/pull/195566).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every matrix once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            matrices: list[Tensor] = []
            gradients: list[Tensor] = []
            averages: list[Tensor] = []
            self._init_group(group, matrices, gradients, averages)  # fills the lists
            if matrices:
                self._update(group, matrices, gradients, averages)
        return loss

    def _update(
        self,
        group: dict[str, Any],
        matrices: list[Tensor],
        gradients: list[Tensor],
        averages: list[Tensor],
    ) -> None:
        rate = group["lr"]
        shapes = [matrix.shape for matrix in matrices]
        owners = owners_of(matrices, dtype_of_iterations(matrices[0]))
        matrices, gradients, averages = (
            [rows_of(tensor) for tensor in tensors]
            for tensors in (matrices, gradients, averages)
        )
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        torch._foreach_mul_(matrices, 1 - rate * group["weight_decay"])
        # One device takes all matrices of a shape at once; owners, as many as they may.
        by_shape = ([numbers] for numbers in _of_one_shape(dict(enumerate(gradients))))
        for owned in rounds(shapes, owners.num_ranks) if owners else by_shape:
            for numbers, update in _updates(group, gradients, averages, owned, owners):
                update = update.to(matrices[0].dtype)
                torch._foreach_add_(
                    [matrices[number] for number in numbers],
                    list(update) if len(numbers) > 1 else [update],
                    alpha=-_adjust_lr(rate, group["adjust_lr_fn"], shapes[numbers[0]]),
                )


def _updates(
    group: dict[str, Any],
    gradients: list[Tensor],
    averages: list[Tensor],
    owned: Owned,
    owners: Owners | None,
) -> Iterator[Update]:
    """Return this rank's rows of the updates of some matrices."""
    numbers = owners.needed(owned) if owners else owned[0]
    directions = [averages[number] for number in numbers]
    if group["nesterov"]:
        some = [gradients[number] for number in numbers]
        directions = list(torch._foreach_lerp(some, directions, group["momentum"]))
    by_number = dict(zip(numbers, directions, strict=True))
    if owners is None:
        return _orthogonalized(group, by_number)
    own = owners.collect(by_number, owned)
    return owners.distribute(_orthogonalized(group, own), owned)


def _orthogonalized(
    group: dict[str, Any], matrices: Mapping[int, Tensor]
) -> Iterator[Update]:
    """Yield the updates of some matrices, which have these numbers."""
    for numbers in _together(matrices) if matrices else ():
        yield (
            numbers,
            orthogonalize(
                torch.stack([matrices[number] for number in numbers])
                if len(numbers) > 1
                else matrices[numbers[0]],
                coefficients=group["ns_coefficients"],
                iterations=group["ns_steps"],
                epsilon=group["eps"],
            ),
        )


def _together(matrices: Mapping[int, Tensor]) -> list[list[int]]:
    """Return which matrices are updated at once: on a GPU, those of one shape."""
    if next(iter(matrices.values())).is_cuda:
        return _of_one_shape(matrices)
    return [[number] for number in matrices]


def _of_one_shape(matrices: Mapping[int, Tensor]) -> list[list[int]]:
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for number, matrix in matrices.items():
        by_shape[matrix.shape].append(number)
    return list(by_shape.values())


def dtype_of_iterations(matrices: Tensor) -> torch.dtype:
    """Return the type that `orthogonalize` computes in."""
    return torch.float16 if matrices.is_cuda else torch.bfloat16


def orthogonalize(
    matrices: Float[Tensor, "*number rows columns"],
    *,
    coefficients: tuple[float, float, float],
    iterations: int,
    epsilon: float,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "*number rows columns"]:
    """Bring the singular values of a matrix near one, or of each of a stack.

    By Newton-Schulz iterations (Jordan et al., 2024), in 16 bits: on a GPU fp16, exact
    to three bits more than bf16 (no number here exceeds 50, and fp16 ends at 65,504);
    on a CPU bf16, which some of them multiply natively.

    Each iteration multiplies X by a polynomial of its Gram matrix R = X Xᵀ:

        X ← (a + b R + c R²) X

    Where X is much wider than high, products with the small R are cheaper than those
    with X. So the polynomials are multiplied up (Q), R follows them by itself, and X is
    multiplied at the end: the same in exact arithmetic (Zhang, Amsel, Chen and Dao,
    2026, "Gram Newton-Schulz", https://dao-lab.ai/blog/2026/gram-newton-schulz).
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        turned = orthogonalize(
            matrices.mT.contiguous(),
            coefficients=coefficients,
            iterations=iterations,
            epsilon=epsilon,
            dtype=dtype,
        )
        return turned.mT.contiguous()
    # For one matrix, a CPU multiplies faster than for a stack of one.
    add_product = torch.addmm if matrices.ndim == 2 else torch.baddbmm
    dtype = dtype or dtype_of_iterations(matrices)
    a, b, c = coefficients
    norms = matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=epsilon)
    x = (matrices / norms).to(dtype)
    is_wide = x.shape[-1] >= 2 * x.shape[-2]
    r, q = x @ x.mT, None
    for number in range(1, iterations + 1):
        z = add_product(r, r, r, beta=b, alpha=c)  # b R + c R²
        if not is_wide:
            x = add_product(x, z, x, beta=a)
            if number < iterations:
                r = x @ x.mT
            continue
        if q is None:
            q = z.clone()
            q.diagonal(dim1=-2, dim2=-1).add_(a)
        else:
            q = add_product(q, q, z, beta=a)
        if number == RESTART_AFTER:
            x, q = q @ x, None
            r = x @ x.mT
        elif number < iterations:
            rz = add_product(r, r, z, beta=a)
            r = add_product(rz, z, rz, beta=a)  # (a + z) R (a + z)
    return x if q is None else q @ x
