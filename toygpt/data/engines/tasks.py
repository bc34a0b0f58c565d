"""The work on one shard: done whole or not at all, on any machine, and done once.

A function of a shard writes files and returns a value. Both are kept in a folder, which
is there with all its files or not there. The name of the folder is a digest of all that
decides the result, so that a result that is there need not be made again.
"""

import gc
import hashlib
import json
import os
import pickle
import platform
import shutil
import socket
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from toygpt.data.file_records import SECONDS_UNTIL_SHOWN
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import (
    new_directory,
    remove_directory,
    sha256_of,
    write_json,
)

# Takes what a shard adds to the progress bar.
Advance = Callable[[int], object]
# Takes an argument and an empty folder; writes files there, and returns JSON's values.
# The argument alone decides both: it has that by which each file that is read is known
# again.
ShardFunction = Callable[[Any, Path, Advance], Any]

VALUE = "value.json"
RECORDS = "records.json"  # size and time of change of all other files of a result
# Their versions may decide what a function of toygpt/data returns.
PACKAGES = ("numpy", "pandas", "pyarrow", "datasets", "tokenizers", "gigatoken")


class WorkerKilledError(Exception):
    """A worker ended without an answer; another one may well succeed."""


@dataclass(frozen=True)
class Task:
    """A function and its argument for one shard, to be called in a worker."""

    name: str  # of the shard, for messages
    argument: Any
    size: int  # of the shard, on the progress bar
    folder: Path  # of the function, and of all its results
    num_files: int  # of the function: see `function_files`
    directory: Path  # the working directory
    code: str  # its digest: the worker's must be the same
    result: Path = field(init=False)  # its folder

    def __post_init__(self) -> None:
        """Name the result by the argument.

        Only once: in a worker, an equal argument may have other bytes when pickled.
        """
        argument = hashlib.sha256(pickle.dumps(self.argument)).hexdigest()
        object.__setattr__(self, "result", self.folder / argument[:32])

    def __call__(self) -> Exception | None:
        """Make the result; return the error, if there is one."""
        # The other processors have workers of their own. Read when first needed.
        os.environ.setdefault("RAYON_NUM_THREADS", "1")
        gc.enable()  # the import of a stage has turned it off
        try:
            os.chdir(self.directory)
            if digest_of_code() != self.code:
                raise InputError(
                    f"{self.name}: on {socket.gethostname()}, toygpt, Python or one of "
                    f"{', '.join(PACKAGES)} has another version than on the machine "
                    f"that gives out the work: install the same on both"
                )
            self.run(self._function(), lambda size: None)
        except (InputError, OSError) as error:
            return error
        except MemoryError:
            return WorkerKilledError("MemoryError")
        except Exception:  # which may have parts that cannot be sent
            return RuntimeError(f"{self.name}: {traceback.format_exc()}")
        return None

    def _function(self) -> ShardFunction:
        """Return the function; its arrays are mapped into memory, read-only.

        So a machine keeps them once for all its workers.
        """
        pickled, *arrays = function_files(self.num_files)
        mapped = [np.memmap(self.folder / name, mode="r") for name in arrays]
        function: ShardFunction = pickle.loads(
            (self.folder / pickled).read_bytes(), buffers=mapped
        )
        return function

    def run(self, function: ShardFunction, advance: Advance) -> None:
        """Make the result in this process, unless it is there."""
        if self.is_done():  # by a job that outlived its stage
            advance(self.size)
            return
        if self.result.is_dir():
            remove_directory(self.result)
        with new_directory(self.result) as directory:
            write_json(directory / VALUE, function(self.argument, directory, advance))
            write_json(directory / RECORDS, _sizes_and_times(directory))

    def is_done(self) -> bool:
        """Return whether the result is there, with all its files as they were made.

        Their sizes and times of change are compared, so that a stage can look at all of
        its shards before it gives any to a worker. The next stage compares digests.
        """
        try:
            recorded = json.loads((self.result / RECORDS).read_bytes())
            return bool(_sizes_and_times(self.result) == recorded)
        except (OSError, ValueError):
            return False

    def bring_result(self, directory: Path | None) -> Any:
        """Return the value of the result, and bring its files into a folder.

        The result stays, too, as other names of the same files where the file system
        can do that: the stage may yet be killed.
        """
        stop = time.monotonic() + SECONDS_UNTIL_SHOWN
        while not self.result.is_dir() and time.monotonic() < stop:
            time.sleep(1)
        for file in self.result.iterdir():
            if directory is not None and file.name not in (VALUE, RECORDS):
                try:
                    os.link(file, directory / file.name)
                except OSError:  # another file system, or one without such names
                    shutil.copyfile(file, directory / file.name)
        return json.loads((self.result / VALUE).read_bytes())


def _sizes_and_times(result: Path) -> dict[str, list[int]]:
    found = {file.name: file.stat() for file in result.iterdir()}
    found.pop(RECORDS, None)
    return {name: [it.st_size, it.st_mtime_ns] for name, it in found.items()}


def function_files(number: int) -> list[str]:
    """Return the names of a function's files: itself, pickled, and its arrays."""
    return ["function.pickle", *(f"array-{n}.bin" for n in range(number - 1))]


# Each task when it has ended, with its error.
Outcomes = Generator[tuple[Task, Exception | None], None, None]


@cache
def digest_of_code() -> str:
    """Return a digest of what decides a shard's result, beside function and argument.

    That is the code in toygpt/data, Python, and the packages. The engines beside this
    file decide how a shard is given to a worker, and nothing that is made of it.
    """
    here = Path(__file__)
    files = [here, *sorted(here.parents[1].glob("*.py"))]
    parts = [f"Python {platform.python_version()}"]
    parts += [f"{path.name} {sha256_of(path)}" for path in files]
    parts += [f"{name} {version(name)}" for name in PACKAGES]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
