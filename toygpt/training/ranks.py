"""What several ranks do together: one process for each device, rank zero the first.

With a single rank all of this costs nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

from lightning_fabric import Fabric
from torch import Tensor

Result = TypeVar("Result")


def on_rank_zero(fabric: Fabric, act: Callable[[], Result]) -> Result | None:
    """Act on rank zero alone, while the other ranks wait for it to end.

    Returns:
        What `act` returned; on the other ranks, None.

    Raises:
        SystemExit: On the other ranks, if rank zero failed: it alone reports why. Their
            exit code is 0, since Lightning kills rank zero for another's error.
    """
    result, has_failed = None, True
    try:
        if fabric.is_global_zero:
            result = act()
        has_failed = False
    finally:
        has_failed = fabric.broadcast(has_failed)
    if has_failed:
        raise SystemExit(0)
    return result


@contextmanager
def reported_by_rank_zero(fabric: Fabric) -> Iterator[None]:
    """Raise an error that all ranks have found together on rank zero alone.

    Raises:
        SystemExit: On the other ranks, in its place.
    """
    try:
        yield
    except Exception:
        if fabric.is_global_zero:
            raise
        raise SystemExit(0) from None


def mean_over_ranks(fabric: Fabric, value: Tensor) -> Tensor:
    """Return the mean of a value of each rank."""
    # Fabric writes the result into the tensor that it is given.
    return cast("Tensor", fabric.all_reduce(value.clone(), reduce_op="mean"))


def sum_over_ranks(fabric: Fabric, values: Tensor) -> Tensor:
    """Return the sums of the values of all ranks."""
    return cast("Tensor", fabric.all_reduce(values.clone(), reduce_op="sum"))
