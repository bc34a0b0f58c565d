"""The process of a stage: its memory, its garbage collection, and its end with DVC.

A launcher (`srun`, `torchrun`) starts the ranks of a training: a process per device.
"""

import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any

# Numbers of <malloc.h>.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20
LARGEST_INT = 2**31 - 1

# A number of <sys/prctl.h>.
PR_SET_PDEATHSIG = 1

# Set for the processes that our own launcher starts (training/launcher.py).
LAUNCHED = "TOYGPT_LAUNCHED"

# Variables that PyTorch reads when it is imported: it then asks for large pages.
ENVIRONMENT = {"THP_MEM_ALLOC_ENABLE": "1"}

POLL_SECONDS = 0.5
own_signals: list[int] = []  # that this process has sent itself, and not handled yet
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}


def keep_freed_memory() -> None:
    """Ask Linux for memory once, and in large pages.

    A training step takes a hundred megabytes and frees them again. By default they go
    back to Linux, which clears every page of 4 kB before the next step gets it. Memory
    that is kept, in pages of 2 MB, saves about a sixth of a step on a CPU
    (docs/performance.md). Call this before torch is imported. On other systems than
    Linux with the GNU C library, nothing happens.
    """
    os.environ.update(ENVIRONMENT)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST_INT)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Import large libraries in less time: modules stay, and hold no garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def num_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def find_dvc() -> list[Any]:
    """Return the parent process, and the DVC process above it, if DVC runs this stage.

    Call this early: once a parent has ended, its own parents cannot be found.
    """
    if "DVC_STAGE" not in os.environ:
        return []
    import psutil

    parents = psutil.Process().parents()
    # DVC runs the stage through a shell, and that may stay.
    dvc = next((parent for parent in parents if parent.name() not in SHELLS), None)
    return [*parents[:1], *([dvc] if dvc is not None else [])]


def end_with_dvc(started_by: Sequence[Any]) -> None:
    """Send this process a SIGTERM once the DVC process that runs it has ended.

    A stage that was started by hand continues when its shell ends.

    Args:
        started_by: What `find_dvc` returned when this process began.
    """
    if "DVC_STAGE" in os.environ:
        Thread(target=_watch, args=(started_by,), name="watch", daemon=True).start()


def is_launched() -> bool:
    """Return whether a launcher has started this process as one of several ranks."""
    return (
        LAUNCHED in os.environ
        or "TORCHELASTIC_RUN_ID" in os.environ
        or os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1"
    )


def end_launcher_with_dvc() -> None:
    """Ask Linux for a SIGTERM to this process when the one that started it ends.

    It stays so for a program that takes the place of this one, and the program passes
    the signal on: a launcher does not know of DVC.
    """
    if "DVC_STAGE" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _watch(started_by: Sequence[Any]) -> None:
    while started_by and all(map(_is_alive, started_by)):
        time.sleep(POLL_SECONDS)
    own_signals.append(signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)


def _is_alive(process: Any) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False
