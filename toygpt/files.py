"""Write every file whole or not at all, and know it again by its digest."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from toygpt.errors import InputError


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
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_leftovers(path)
    temporary = _temporary_sibling(path)
    with naming(path, written_as=temporary):
        try:
            with temporary.open("wb") as file:
                yield DigestedFile(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _flush_to_disk(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


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
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_leftovers(path)
    temporary = _temporary_sibling(path)
    with naming(path, written_as=temporary):
        temporary.mkdir()
        try:
            yield temporary
            for file in temporary.rglob("*"):
                _flush_to_disk(file)
            _flush_to_disk(temporary)
            _put_in_place(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


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
        outdated = _temporary_sibling(path).with_suffix(".old.tmp")
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


def _sweep_leftovers(path: Path) -> None:
    """Remove what processes that are gone left of their attempts to write `path`.

    One of them may have had the id of this one: in a container it is always the same.
    """
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)(\.old)?\.tmp")
    for leftover in path.parent.iterdir():
        match = pattern.fullmatch(leftover.name)
        if match is None:
            continue
        process = int(match[1])
        if process == os.getpid() or not is_running(process):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


def is_running(process_id: int) -> bool:
    """Say whether there is a process of this id."""
    try:
        os.kill(process_id, 0)  # asks, and does nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _temporary_sibling(path: Path) -> Path:
    # On the same file system as `path`, so that renaming is one step.
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
