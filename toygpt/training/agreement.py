"""What the ranks check together before they train: one rank is a process of a device.

All of them have the same parameters, code, data and packages, see the same folder of
checkpoints, and its lock holds between their machines. Otherwise a rank that differs
would let the others wait for ever, or add gradients of another network to theirs.
"""

import os
import socket
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.lock import holder_of
from toygpt.pipeline.params import RuntimeParams
from toygpt.resuming.fingerprint import differences, shown
from toygpt.resuming.run_folder import LOCK_FILE, RunFolder
from toygpt.tracking.environment import PACKAGES
from toygpt.training.ranks import gather, on_all_ranks

NUM_SHOWN = 3  # differences, at most
MAX_SECONDS_APART = 60.0  # of the clocks of two machines
ALL_REDUCE_BYTES = 32_000_000


def check_agreement(
    fabric: Fabric, inputs: Mapping[str, Any], runtime: RuntimeParams
) -> None:
    """Refuse ranks that would not compute the same training as rank zero.

    Args:
        fabric: As `launch` returns it.
        inputs: Inputs of the fingerprint, as this rank sees them.
        runtime: How this rank would compute.

    Raises:
        InputError: A value of a rank differs from that of rank zero.
    """
    own = {
        **inputs,
        **{f"runtime.{key}": value for key, value in runtime.model_dump().items()},
        **{name: version(name) for name in PACKAGES},
        "number of ranks": fabric.world_size,
        "type of the device": fabric.device.type,
    }
    host, expected = fabric.broadcast((socket.gethostname(), own))

    def compare() -> None:
        found = [
            f"{key} is {shown(here)}, not {shown(there)}"
            for key, (there, here) in differences(expected, own).items()
        ]
        if found:
            more = len(found) - NUM_SHOWN
            found[NUM_SHOWN:] = [f"and {more} more"] if more > 0 else []
            raise InputError(
                f"rank {fabric.global_rank} does not agree with rank 0 on {host}: "
                f"{'; '.join(found)}. All machines need the same parameters, code, "
                f"data and packages"
            )

    on_all_ranks(fabric, compare)


def check_shared(fabric: Fabric, folder: RunFolder) -> None:
    """Refuse ranks that do not see the folder of the training, locked by rank zero.

    Where only its lock is not seen, rank zero warns: another machine could then train
    the same at the same time, and the two would remove each other's checkpoints.

    Raises:
        InputError: The folder is another one on the machine of a rank.
    """
    if fabric.world_size == 1:
        return
    path = folder.folder / LOCK_FILE
    if fabric.is_global_zero:
        _flush(path)
    expected = fabric.broadcast(_content(path))

    def is_locked() -> bool:
        if _content(path) != expected:
            raise InputError(
                f"rank {fabric.global_rank} does not see the files of rank 0 in "
                f"{folder.folder}: the project has to lie on a file system that all "
                f"machines share"
            )
        return holder_of(path) is not None

    if not all(gather(fabric, on_all_ranks(fabric, is_locked))):
        _warn(
            fabric,
            f"locks in {folder.folder} do not hold between these machines: see that no "
            f"other job trains the same at the same time",
        )


def _content(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _flush(path: Path) -> None:
    """Send what was written to a file that is still open to a file server."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def describe_ranks(fabric: Fabric) -> None:
    """Print how many ranks there are, and how fast they add up numbers.

    Clocks that differ are a warning: times of records and trackers depend on them, but
    nothing else.
    """
    if fabric.world_size == 1:
        return
    fabric.barrier()
    times = gather(fabric, (socket.gethostname(), time.time()))
    earliest, latest = (f(times, key=lambda pair: pair[1]) for f in (min, max))
    if (apart := latest[1] - earliest[1]) > MAX_SECONDS_APART:
        _warn(
            fabric,
            f"the clock of {latest[0]} is {apart:,.0f} seconds ahead of that of "
            f"{earliest[0]}: times of runs will be wrong",
        )
    seconds = _seconds_to_add_up(fabric)
    if fabric.is_global_zero:
        hosts = sorted({host for host, _ in times})
        print(
            f"{fabric.world_size} ranks on {', '.join(hosts)}; to add up "
            f"{ALL_REDUCE_BYTES / 1e6:.0f} MB over all of them takes "
            f"{seconds * 1e3:,.1f} ms ({ALL_REDUCE_BYTES / seconds / 1e9:.2f} GB/s)",
            flush=True,
        )


def _seconds_to_add_up(fabric: Fabric) -> float:
    """Return how long an all-reduce takes, as of a network's gradients in each step."""
    numbers = torch.zeros(ALL_REDUCE_BYTES // 4, device=fabric.device)
    start = 0.0
    for _ in range(2):  # the first one also connects the ranks
        start = time.perf_counter()
        torch.distributed.all_reduce(numbers)
        numbers[0].item()  # waits for a GPU
    return time.perf_counter() - start


def _warn(fabric: Fabric, message: str) -> None:
    if fabric.is_global_zero:
        print(f"WARNING: {message}", flush=True)
