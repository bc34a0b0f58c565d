"""Ranks on this machine: forks of one process that has imported everything."""

import os
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

import torch

from tests.project import PATIENCE_SECONDS


class Ended(NamedTuple):
    """How ranks ended: their exit codes, and what they printed together."""

    codes: list[int | None]
    stdout: str
    stderr: str


def run_ranks(function: Callable[[Path], None], folder: Path, *, ranks: int) -> Ended:
    """Run a function on several ranks to its end; on each, a warning is an error.

    They find what torchrun would give them, and the variables of this process, which
    is not their parent: they are forks of a process that serves all tests of a worker,
    and has imported what the first of them asked for. torchrun would start a Python for
    each rank that imports PyTorch, which takes longer than most of these trainings.

    Args:
        function: It is defined in a module.
        folder: The argument that it gets; the output of all ranks lies there.
        ranks: How many there are. If one fails, the others are ended.
    """
    # As torchrun opens it, at a free port; the ranks meet there.
    open_store = torch.distributed.TCPStore  # type: ignore[attr-defined]
    store = open_store("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    forks = get_context("forkserver")
    forks.set_forkserver_preload([function.__module__])
    places = [place_of(rank, ranks, store.port) for rank in range(ranks)]
    processes = [
        forks.Process(target=_run, args=(function, folder, os.environ | place))
        for place in places
    ]
    for process in processes:
        process.start()
    running = processes
    try:
        while running and not any(process.exitcode for process in processes):
            ended = wait([process.sentinel for process in running], PATIENCE_SECONDS)
            assert ended, "the ranks wait for one another"
            running = [process for process in running if process.is_alive()]
    finally:
        for process in running:
            process.kill()
            process.join()
    stdout, stderr = (
        (folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")
    )
    return Ended([process.exitcode for process in processes], stdout, stderr)


def place_of(rank: int, ranks: int, port: int) -> dict[str, str]:
    """Return the variables by which torchrun gives a rank its place."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "tests",
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # no rank opens a store of its own
    }


def _run(
    function: Callable[[Path], None], folder: Path, environment: dict[str, str]
) -> None:
    for descriptor, name in enumerate(("stdout", "stderr"), start=1):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
    os.environ.clear()
    os.environ.update(environment)
    warnings.simplefilter("error")
    # Dynamo's own, where it compiles a network that is split.
    warnings.filterwarnings("ignore", "The .grad attribute")
    function(folder)
