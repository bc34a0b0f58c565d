"""Write every file whole or not at all, and recognise it by its digest.

A file or directory that is being written has a temporary name beside its place,
`.NAME.ID.tmp`, and a lock of the operating system. The lock ends with the process,
however that ends: a temporary file without a lock is the leftover of a killed process.
The id of a process would not prove it: ids are used again, and a killed process
keeps its own until its parent has asked how it ended.

These locks are `flock` itself and not lock.py, whose filelock opens no directory.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from toygpt.pipeline.errors import InputError

# ID is random, and in earlier versions the id of the process. `.old`: the previous
# directory, moved aside.
TEMPORARY_NAME = re.compile(r"\.(?P<name>.+)\.[0-9a-f]+(?P<old>\.old)?\.tmp")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class DigestedFile:
    """A file that is being written, and the digest of its content so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        """Append the data."""
        written = self._file.write(data)
        self._digest.update(data)
        self.num_bytes += written
        return written

    def flush(self) -> None:
        """Pass what Python has buffered on to the operating system."""
        self._file.flush()

    @property
    def sha256(self) -> str:
        """The SHA-256 digest of everything written, in hexadecimal."""
        return self._digest.hexdigest()


@contextmanager
def new_file(path: Path) -> Iterator[DigestedFile]:
    """Yield a file that becomes `path` when all of it has been written.

    Until then `path` stays as it is; after an error nothing of the attempt remains.
    """
    with naming(path), _temporary_beside(path, Path.touch) as (temporary, descriptor):
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            yield DigestedFile(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_to_disk(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file; a reader finds the old one or the new one, whole."""
    with new_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON that strict readers accept: NaN and infinity are refused.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory that becomes `path` when all of it has been written.

    Until then `path` stays as it is; after an error nothing of the attempt remains.
    The next attempt removes the leftovers of a killed process.
    """
    with naming(path), _temporary_beside(path, Path.mkdir) as (temporary, _):
        yield temporary
        for file in temporary.rglob("*"):
            _flush_to_disk(file)
        _flush_to_disk(temporary)
        _put_in_place(temporary, path)


@contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """Yield an empty directory in a folder, and remove it afterwards.

    The next call for the same folder removes the leftovers of a killed process.
    """
    make = partial(Path.mkdir, mode=0o700)
    with _temporary_beside(parent / "toygpt", make) as (temporary, _):
        yield temporary


def remove_directory(path: Path) -> None:
    """Remove a directory in one step: at any moment it is there whole, or not at all.

    A process that is killed meanwhile leaves a leftover.
    """
    with _held(path):
        removed = path.rename(_temporary_sibling(path))
        shutil.rmtree(removed, ignore_errors=True)


def sweep_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the leftovers of killed processes from a folder.

    Args:
        folder: The folder; the folders inside it are not searched.
        name: Name of the file or directory that they were writing; None means any.
    """
    for path in folder.glob(".*.tmp"):
        match = TEMPORARY_NAME.fullmatch(path.name)
        if match and name in (None, match["name"]):
            with suppress(OSError):  # as of a leftover of another user
                remove_leftover(path)


def remove_leftover(path: Path) -> None:
    """Remove a temporary file or directory, unless a process is writing it."""
    # The lock is kept meanwhile: no other process begins to write what is removed here.
    with _held(path) as descriptor:
        if descriptor is not None:
            _remove(path)


def is_being_written(path: Path) -> bool:
    """Return whether a process is, or may be, writing a temporary file or directory."""
    try:
        with _held(path) as descriptor:
            return descriptor is None
    except OSError:  # another user's
        return True


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one that names the file.

    Where a file is open already, the system does not name it. Libraries that write
    without Python (safetensors, tokenizers) raise errors of their own, with the
    system's in their text.

    Raises:
        OSError: In place of an error that has the number of a system's error in its
            text, or in that of a cause.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        for cause in _causes_of(error):
            if found := re.search(r"(?:Errno|os error) (\d+)", str(cause)):
                name = str(getattr(cause, "filename", None) or path)
                # The user has never seen the temporary name, and it is gone.
                final_name = rf"\.({re.escape(path.name)})\.[0-9a-f]+\.tmp"
                name = re.sub(final_name, r"\1", name)
                number = int(found[1])
                raise OSError(number, os.strerror(number), name) from error
        raise


def _causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes: torch hides the system's errors behind its own."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _put_in_place(temporary: Path, path: Path) -> None:
    if path.exists():
        outdated = temporary.with_suffix(".old.tmp")
        with _held(path):
            path.rename(outdated)
            try:
                temporary.rename(path)
            except BaseException:
                outdated.rename(path)
                raise
            shutil.rmtree(outdated)
    else:
        temporary.rename(path)
    _flush_to_disk(path.parent)


@contextmanager
def _temporary_beside(
    path: Path, make: Callable[[Path], None]
) -> Iterator[tuple[Path, int]]:
    """Yield a new file or directory, locked, and the descriptor of its lock.

    It is removed afterwards, unless it was renamed.

    Args:
        path: The place beside which it is made. Leftovers of the same name go.
        make: Makes an empty one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(path.parent, path.name)
    while True:
        temporary = _temporary_sibling(path)
        try:
            make(temporary)
            with _held(temporary) as descriptor:
                if descriptor is not None:
                    yield temporary, descriptor
                    return
            # Before it was locked, another process took it for a leftover.
        finally:
            with suppress(OSError):
                _remove(temporary)


@contextmanager
def _held(path: Path) -> Iterator[int | None]:
    """Lock a file or directory, and yield its descriptor.

    Yield None if it is gone, or locked already, in this process or another. A child
    that is forked meanwhile holds the lock, too; a program that is started does not.
    """
    try:
        # NFS locks a file only if it is open for writing, unlike a directory.
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor if _lock(descriptor) and is_at(path, descriptor) else None
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(path: Path, descriptor: int) -> bool:
    """Return whether an open file is still the one at a path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _temporary_sibling(path: Path) -> Path:
    # On the same file system as `path`, so that renaming is one step.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
