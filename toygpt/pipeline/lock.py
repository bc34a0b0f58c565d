"""Locks between processes, which the kernel releases however a process ends.

    with locked(folder / "lock"):              # wait for the process that has it
    with locked(folder / "lock", wait=False):  # or raise AlreadyLockedError
    holder_of(folder / "lock")                 # the process that has it, or None

Each lock is a small file that stays where it is and names its holder while it is held.
To remove a lock file, alone or with its folder, is safe for the process that holds it:
a process that waits meanwhile sees that its file is gone and locks a new one.

The `filelock` package waits, closes the lock in a forked child, and refuses to wait for
a lock of its own thread. To ask for the holder needs a shared lock, which it lacks: two
processes that ask at the same time must not take each other for the holder.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from toygpt.pipeline.files import is_at, naming


class Holder(NamedTuple):
    """The process that holds a lock; the host matters on a shared file system."""

    process: int | None  # None: it has not written its id yet
    host: str

    def __str__(self) -> str:
        if self.process is None:
            return "another process"
        elsewhere = "" if self.host == socket.gethostname() else f" on {self.host}"
        return f"process {self.process}{elsewhere}"


class AlreadyLockedError(BlockingIOError):
    """Another process holds the lock, or this process under another name."""

    def __init__(self, path: Path, holder: Holder) -> None:
        super().__init__(f"{holder} holds {path}")
        self.holder = holder


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file, which is made, with its folder, where it is missing.

    Args:
        path: The lock file. No file whose content matters: it is overwritten.
        wait: Whether to wait for the process that holds the lock.

    Raises:
        AlreadyLockedError: A process holds the lock, and this one does not wait.
        OSError: The file cannot be made or written.
    """

    def sign(descriptor: int) -> None:
        """Write who holds the lock, if the locked file is still the one at the path."""
        if not is_at(path, descriptor):
            raise _GoneError
        with naming(path), open(descriptor, "w", closefd=False) as file:
            file.truncate()
            file.write(f"{os.getpid()} {socket.gethostname()}\n")

    # Where the file system has no locks, files as locks would outlive a killed process.
    lock = FileLock(
        path,
        blocking=wait,
        thread_local=False,
        fallback_to_soft=False,
        on_acquired=sign,
    )
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except (_GoneError, FileNotFoundError):  # the folder was removed meanwhile
            continue
        except Timeout:
            if (holder := holder_of(path)) is None:  # a process had only asked
                continue
            raise AlreadyLockedError(path, holder) from None
        break
    try:
        yield
    finally:
        lock.release()


def holder_of(path: Path) -> Holder | None:
    """Return the process that holds the lock of a file, if there is one."""
    try:
        file = path.open(encoding="utf-8")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            process, _, host = file.readline().strip().partition(" ")
            return Holder(int(process) if process.isdigit() else None, host)
    return None


class _GoneError(Exception):
    """The file that was locked is not at its path any more."""
