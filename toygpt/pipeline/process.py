"""How our process lives with others, and with what it imports."""

import gc
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any

POLL_SECONDS = 0.5
own_signals: list[int] = []  # that this process has sent itself, and not handled yet
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}


def find_dvc() -> list[Any]:
    """Return the process that started this one, and the DVC behind it, if there is one.

    It has to be asked at once: the parents of those that have ended are not known.
    """
    if "DVC_STAGE" not in os.environ:
        return []
    import psutil

    parents = psutil.Process().parents()
    # DVC runs the stage through a shell, and that may stay.
    dvc = next((parent for parent in parents if parent.name() not in SHELLS), None)
    return [*parents[:1], *([dvc] if dvc is not None else [])]


def end_with_dvc(started_by: Sequence[Any]) -> None:
    """Send this process a SIGTERM once the DVC that runs it is gone.

    A stage that was started by hand goes on, whatever becomes of its shell.

    Args:
        started_by: What `find_dvc` returned when this process began.
    """
    if "DVC_STAGE" in os.environ:
        Thread(target=_watch, args=(started_by,), name="watch", daemon=True).start()


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


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Import much in less time: what is imported stays, and holds no garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
