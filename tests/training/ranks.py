"""Ranks on this machine: forks of one process that has imported everything."""

import os
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

from torch.distributed import TCPStore

from tests.project import PATIENCE_SECONDS


class Ended(NamedTuple):
    """How ranks ended: their exit codes, and what they printed together."""

    codes: list[int | None]
    stdout: str
    stderr: str


def run_ranks(function: Callable[[Path], None], folder: Path, *, ranks: int) -> Ended:
    """Run a function on several ranks to its end; on each, a warning is an error.

    They find what torchrun would give them. It would start Python anew for each rank,
    and import PyTorch, which takes longer than most of these trainings.

    Args:
        function: It is defined in a module.
        folder: The argument that it gets; the output of all ranks lies there.
        ranks: How many there are. If one fails, the others are ended.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    forks = get_context("forkserver")
    forks.set_forkserver_preload([function.__module__])
    processes = [
        forks.Process(target=_run, args=(function, folder, rank, ranks, store.port))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    running = {process.sentinel: process for process in processes}
    while running:
        ended = [running.pop(it) for it in wait(list(running), PATIENCE_SECONDS)]  # type: ignore[index]
        for process in ended:
            process.join()
        if not ended or any(process.exitcode for process in ended):
            for process in running.values():
                process.kill()
    stdout, stderr = (
        (folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")
    )
    return Ended([process.exitcode for process in processes], stdout, stderr)


def _run(
    function: Callable[[Path], None], folder: Path, rank: int, ranks: int, port: int
) -> None:
    for descriptor, name in enumerate(("stdout", "stderr"), start=1):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "tests",
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store of the test's process
    }
    warnings.simplefilter("error")
    # Dynamo's own, where it compiles a network that is split.
    warnings.filterwarnings("ignore", "The .grad attribute")
    function(folder)
