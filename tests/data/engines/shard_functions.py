"""Functions of a shard, for the tests of engines: workers import them from here."""

import errno
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from toygpt.data.corpus import Found, RawDocument
from toygpt.data.engines.tasks import Advance
from toygpt.data.inventory import Inventory
from toygpt.data.local_files import read_local_files
from toygpt.pipeline.errors import InputError


class Numbers(NamedTuple):
    """A shard: some numbers, and the file to which they are written."""

    file: str
    numbers: list[int]


def double(
    shard: Numbers,
    directory: Path,
    advance: Advance,
    *,
    log: Path,
    killed: Sequence[str] = (),
) -> dict[str, int]:
    """Write the doubled numbers; return their sum, and the id of the process.

    Args:
        shard: The shard.
        directory: Gets its file.
        advance: Moves the progress bar.
        log: The file that gets a line for each call.
        killed: The files half of which is written before SIGKILL, each as often as it
            is named.
    """
    with log.open("a") as file:
        file.write(f"{shard.file}\n")
    doubled = " ".join(str(2 * number) for number in shard.numbers)
    if log.read_text().split().count(shard.file) <= killed.count(shard.file):
        (directory / shard.file).write_text(doubled[:1])
        os.kill(os.getpid(), signal.SIGKILL)
    (directory / shard.file).write_text(doubled)
    advance(len(shard.numbers))
    return {"sum": 2 * sum(shard.numbers), "process": os.getpid()}


def refuse(shard: Numbers, directory: Path, advance: Advance) -> None:
    """Raise what a function raises if its input cannot be used."""
    (directory / shard.file).touch()
    raise InputError(f"{shard.file} is damaged: run `dvc repro`")


def fill_the_disk(shard: Numbers, directory: Path, advance: Advance) -> None:
    """Raise what writing to a full disk raises."""
    raise OSError(errno.ENOSPC, "No space left on device", shard.file)


def lack_memory(shard: Numbers, directory: Path, advance: Advance) -> None:
    """Raise what Python raises if the system gives it no memory."""
    raise MemoryError


def count_mapped(
    shard: Numbers, directory: Path, advance: Advance, *, numbers: NDArray[np.int64]
) -> dict[str, Any]:
    """Return whether an argument can be read only, as a mapped file, and its sum."""
    return {"is_mapped": not numbers.flags.writeable, "sum": int(numbers.sum())}


def fail(shard: Numbers, directory: Path, advance: Advance) -> None:
    """Raise what only a fault in the code raises."""
    raise KeyError(shard.file)


def wait_forever(shard: Numbers, directory: Path, advance: Advance) -> None:
    """Write the id of the process to a file, and never return."""
    Path(f"{shard.file}.pid").write_text(f"{os.getpid()}\n")
    while True:
        signal.pause()


def read_or_be_killed(
    files: Iterable[Found], inventory: Inventory, *, log: Path, killed: str = ""
) -> Iterator[RawDocument]:
    """Read local files; note the name of each, and send SIGKILL at the first of one."""
    for file in files:
        with log.open("a") as noted:
            noted.write(f"{file.name}\n")
        if file.name == killed and log.read_text().split().count(killed) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from read_local_files([file], inventory)
