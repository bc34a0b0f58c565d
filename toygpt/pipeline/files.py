"""Write every file whole or not at all, and know it again by its digest.

What is being written has a temporary name beside its place, `.NAME.ID.tmp`, and a lock
of the operating system. The lock ends with the process, however that ends, so what is
not locked is a leftover: a killed process can neither keep the lock nor remove the
file. The id of a process would not say so: ids are used again, and a killed process
keeps its own until its parent has asked how it ended.
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
from pathlib import Path
from typing import Any, BinaryIO

from toygpt.pipeline.errors import InputError

# ID is random, and in earlier versions the id of the process. `.old`: what was in the
# place before, moved aside.
TEMPORARY_NAME = re.compile(r"\.(?P<name>.+)\.[0-9a-f]+(?P<old>\.old)?\.tmp")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class DigestedFile:
    """A file that is being written, and the digest of what went into it so far."""

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
        """Hand what was written to the system."""
        self._file.flush()

    @property
    def sha256(self) -> str:
        """The SHA-256 digest of all that was written, in hexadecimal."""
        return self._digest.hexdigest()


@contextmanager
def new_file(path: Path) -> Iterator[DigestedFile]:
    """Yield a file that becomes `path` when all of it has been written.

    Until then `path` stays as it is; after an error nothing of the attempt remains.
    """
    with _temporary_beside(path, Path.touch) as (temporary, descriptor):
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            yield DigestedFile(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_to_disk(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file; whoever looks finds the old one or the new one, whole."""
    with new_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON that strict readers accept: NaN and infinity are refused.

    Raises:
        ValueError: A number that JSON cannot hold.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory that becomes `path` when all of it has been written.

    Until then `path` stays as it is; after an error nothing of the attempt remains.
    What a killed process left behind is swept by the next attempt.
    """
    with _temporary_beside(path, Path.mkdir) as (temporary, _):
        yield temporary
        for file in temporary.rglob("*"):
            _flush_to_disk(file)
        _flush_to_disk(temporary)
        _put_in_place(temporary, path)


@contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """Yield an empty directory in a folder; it is removed when it is not needed.

    What a killed process left behind is removed by the next one that needs such a
    directory in the same folder.
    """
    parent.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(parent)
    while True:
        temporary = _temporary_sibling(parent / "toygpt")
        temporary.mkdir(mode=0o700)
        with _held(temporary) as descriptor:
            if descriptor is not None:
                try:
                    yield temporary
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
                return
            # Before it was locked, another process saw it as a leftover.


def remove_directory(path: Path) -> None:
    """Remove a directory in one step: at any moment all of it is there, or nothing.

    What a killed process did not remove is a leftover.
    """
    with _held(path):
        removed = path.rename(_temporary_sibling(path))
        shutil.rmtree(removed, ignore_errors=True)


def sweep_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove from a folder what killed processes had not finished.

    Args:
        folder: Where to look; not in the folders inside it.
        name: Of the one file or directory that they were writing; None means any.
    """
    for path in folder.glob(".*.tmp"):
        match = TEMPORARY_NAME.fullmatch(path.name)
        if match and name in (None, match["name"]):
            with suppress(OSError):  # it may be another user's
                remove_leftover(path)


def remove_leftover(path: Path) -> None:
    """Remove a temporary file or directory, unless a process is writing it."""
    # The lock is kept meanwhile: no other process begins to write what is removed here.
    with _held(path) as descriptor:
        if descriptor is not None:
            _remove(path)


def is_being_written(path: Path) -> bool:
    """Say whether a process is, or may be, writing a temporary file or directory."""
    try:
        with _held(path) as descriptor:
            return descriptor is None
    except OSError:  # another user's
        return True


@contextmanager
def naming(path: Path, *, written_as: Path | None = None) -> Iterator[None]:
    """Let an error of the system say what could not be written, under its own name.

    Where a file is open already, the system does not say. What writes without Python
    (safetensors, tokenizers) has errors of its own, and the system's in their text.

    Raises:
        OSError: In place of any error in whose text, or behind which, there is one.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        for cause in _causes_of(error):
            if found := re.search(r"(?:Errno|os error) (\d+)", str(cause)):
                name = str(getattr(cause, "filename", None) or path)
                if written_as is not None:
                    name = name.replace(written_as.name, path.name)
                number = int(found[1])
                raise OSError(number, os.strerror(number), name) from error
        raise


def _causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those behind it: torch hides the system's behind its own."""
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
    """Yield the path of a new file or directory that is about to become `path`.

    With it comes its descriptor, by which this process holds it. After an error it is
    removed.

    Args:
        path: Its place. Leftovers of earlier attempts are removed.
        make: Makes an empty one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(path.parent, path.name)
    while True:
        temporary = _temporary_sibling(path)
        with naming(path, written_as=temporary):
            try:
                make(temporary)
                with _held(temporary) as descriptor:
                    if descriptor is not None:
                        yield temporary, descriptor
                        return
                # Before it was locked, another process saw it as a leftover.
            except BaseException:
                with suppress(OSError):
                    _remove(temporary)
                raise


@contextmanager
def _held(path: Path) -> Iterator[int | None]:
    """Lock a file or directory, and yield its descriptor.

    None, if it is locked already, in this process or another, or is gone. A child that
    is forked meanwhile holds the lock, too; a program that is started does not.
    """
    try:
        # On NFS only what is open for writing can be locked, unless it is a directory.
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
    """Say whether what is open is still what is at a path."""
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
