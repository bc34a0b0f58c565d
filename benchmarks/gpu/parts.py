"""Run the parts of a benchmark: each in a process of its own, and within its time.

A part that fails, crashes or hangs costs its own time, and no other part. This file
imports no large library: the process that waits for the parts needs none.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.gpu.setup import Setup


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    Attributes:
        name: As `--only` takes it.
        function: Its place, as "module:name". It gets the setup, and reports tables.
        seconds: Its time limit. What one part leaves, the next may use.
    """

    name: str
    function: str
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a part ended."""

    part: str
    outcome: str  # "done", or what went wrong
    seconds: float


def run_part(part: Part, setup: Setup, *, limit: float, log: Path) -> Outcome:
    """Run a part until it ends, or until its time is over.

    Args:
        part: What to run.
        setup: What it is given.
        limit: Seconds after which it is stopped, with all processes that it started.
        log: Gets all that it prints, after what is there.
    """
    began = time.monotonic()
    # A fork of a server that has imported the libraries starts at once. Whether a fork
    # can use the GPU, though, depends on what these imports have done with its driver.
    context: Any = get_context("forkserver" if setup.is_dry_run else "spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(part.function, setup, log, theirs))
    process.start()
    theirs.close()
    try:
        process.join(limit)
        outcome = _outcome_of(process.exitcode, ours, limit)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # and its processes
        process.kill()
        process.join()
    return Outcome(part.name, outcome, round(time.monotonic() - began, 1))


def _outcome_of(exit_code: int | None, errors: Connection, limit: float) -> str:
    """Return how a part ended, in a few words."""
    if exit_code is None:
        return f"stopped: its {limit:.0f} s are over"
    if exit_code == 0:
        return "done"
    if exit_code < 0:
        return f"failed: {signal.Signals(-exit_code).name}"
    with suppress(EOFError):  # it has ended without a word
        return f"failed: {errors.recv()}"
    return f"failed: exit code {exit_code}"


def _work(function: str, setup: Setup, log: Path, connection: Connection) -> None:
    """Run a part in this process."""
    os.setpgid(0, 0)  # so that all of its processes can be stopped together
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    module, name = function.split(":")
    try:
        work: Callable[[Setup], None] = getattr(import_module(module), name)
        work(setup)
    except Exception as error:
        traceback.print_exc()
        connection.send(f"{type(error).__name__}: {str(error)[:300]}")
        sys.exit(1)
