"""Write every file whole or not at all, and know it again by its digest."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def sha256_of(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file; whoever looks finds the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_leftovers(path)
    temporary = _temporary_sibling(path)
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        _flush_to_disk(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
    """Remove what processes that are gone left of their attempts to write `path`."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)(\.old)?\.tmp")
    for leftover in path.parent.iterdir():
        match = pattern.fullmatch(leftover.name)
        if match and not _is_running(int(match[1])):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


def _is_running(process_id: int) -> bool:
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
