"""What several ranks do together: one process for each device, rank zero the first.

With a single rank all of this costs nothing.
"""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from toygpt.pipeline.errors import InputError

Result = TypeVar("Result")

# What gloo and NCCL say when the process at the other end is gone.
LOST_RANK = re.compile(
    "Connection (reset|closed) by peer|Broken pipe|remote process exit"
)


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


def on_all_ranks(fabric: Fabric, act: Callable[[], Result]) -> Result:
    """Act on all ranks at once; where one of them fails, all of them end.

    Raises:
        InputError: On rank zero, an error of the first rank that has one, with the name
            of its host if there are several.
        OSError: The same for an error of the operating system.
        SystemExit: On the other ranks, with the exit code 0, as in `on_rank_zero`.
    """
    if fabric.world_size == 1:
        return act()
    error: InputError | OSError | None = None
    try:
        result = act()
    except (InputError, OSError) as caught:
        error = caught
    found = gather(fabric, (socket.gethostname(), error))
    failed = [(host, failure) for host, failure in found if failure is not None]
    if not failed:
        return result
    if not fabric.is_global_zero:
        raise SystemExit(0)
    hosts = {host for host, _ in found}
    host, failure = failed[0]
    raise _named(failure, host) if len(hosts) > 1 else failure


def _named(error: InputError | OSError, host: str) -> InputError | OSError:
    """Return an error with the name of the host that it comes from."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, f"{error.filename} on {host}")
    return InputError(f"on {host}: {error}")


@contextmanager
def explain_lost_ranks(fabric: Fabric) -> Iterator[None]:
    """End with one message, on rank zero, when another rank has ended before.

    Raises:
        InputError: Another rank has ended; it or its launcher says why.
        SystemExit: The same on the ranks above zero, with the exit code 1.
    """
    try:
        yield
    except RuntimeError as error:
        if fabric.world_size == 1 or not LOST_RANK.search(str(error)):
            raise
        if not fabric.is_global_zero:
            raise SystemExit(1) from None
        raise InputError(
            "another rank has ended, so this one cannot continue: see its message, or "
            "that of its launcher; the same command resumes from the last checkpoint"
        ) from None


def gather(fabric: Fabric, value: Result) -> list[Result]:
    """Return the values of all ranks, in their order, on each rank."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


@contextmanager
def reported_by_rank_zero(
    fabric: Fabric, kind: type[Exception] = Exception
) -> Iterator[None]:
    """Raise an error that all ranks have found together on rank zero alone.

    Args:
        fabric: Of this rank.
        kind: Of the errors that all ranks find together.

    Raises:
        SystemExit: On the other ranks, in its place.
    """
    try:
        yield
    except kind:
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
