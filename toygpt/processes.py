"""End with whoever started us: DVC that is killed leaves its stage running."""

import os
import signal
import time
from collections.abc import Callable
from threading import Thread

POLL_SECONDS = 0.5
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}


def end_with_dvc(started_by: int) -> None:
    """Send this process a SIGTERM once the DVC that runs it is gone.

    A stage that was started by hand goes on, whatever becomes of its shell.

    Args:
        started_by: Id of the parent process when this one began.
    """
    if "DVC_STAGE" in os.environ:
        Thread(target=_watch, args=(started_by,), name="watch", daemon=True).start()


def _watch(started_by: int) -> None:
    is_dvc_running = _watcher_of_dvc()
    while os.getppid() == started_by and is_dvc_running():
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _watcher_of_dvc() -> Callable[[], bool]:
    """Return how to ask for DVC: it may run the stage through a shell that stays."""
    import psutil

    parents = psutil.Process().parents()
    dvc = next((parent for parent in parents if parent.name() not in SHELLS), None)
    if dvc is None:
        return lambda: False
    return lambda: dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE
