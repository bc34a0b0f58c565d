"""Sizes and digests by which the files of a folder are known to be unchanged."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import sha256_of

# A network file system shows a new file to other machines up to a minute late.
SECONDS_UNTIL_SHOWN = 90


@dataclass(frozen=True)
class FileRecord:
    """The size and the digest by which a file is known to be unchanged."""

    bytes: int
    sha256: str


def record_of(path: Path) -> FileRecord:
    """Return the record of a file."""
    return FileRecord(path.stat().st_size, sha256_of(path))


def record_files(directory: Path, *patterns: str) -> dict[str, FileRecord]:
    """Return the record of every file of a folder whose name fits a pattern."""
    return {
        path.name: record_of(path)
        for pattern in patterns
        for path in sorted(directory.glob(pattern))
    }


def check_names_and_sizes(
    directory: Path, files: Mapping[str, FileRecord], *, made_by: str
) -> None:
    """Check that a folder has the files of its manifest, of their sizes, and no others.

    The message names `made_by`, the stage to run again.

    Raises:
        InputError: A file is missing, of another size, or left from another run.
    """
    advice = f"run `dvc repro --force --single-item {made_by}`"
    for name, record in files.items():
        _check_size(directory / name, record, advice)
    for suffix in {Path(name).suffix for name in files}:
        for file in sorted(directory.glob(f"*{suffix}")):
            if file.name not in files:
                raise InputError(
                    f"{file} is not in {directory / 'manifest.json'}, but left from "
                    f"another run: {advice}"
                )


def _check_size(file: Path, record: FileRecord, advice: str) -> None:
    if not file.is_file():
        raise InputError(f"{file} is missing: {advice}")
    if (size := file.stat().st_size) != record.bytes:
        raise InputError(
            f"{file} is damaged: {size:,} bytes instead of {record.bytes:,}; {advice}"
        )


def check_in_worker(file: Path, record: FileRecord, *, made_by: str) -> None:
    """Check a file that another machine may have written, to the last bit.

    Raises:
        InputError: The file is missing or damaged.
    """
    wait_for(file, record, made_by=made_by)
    check_digests(file.parent, {file.name: record}, made_by=made_by)


def wait_for(file: Path, record: FileRecord, *, made_by: str) -> None:
    """Wait until a file has its size: it may only not be shown on this machine yet.

    Raises:
        InputError: The file is missing, or of another size.
    """
    stop = time.monotonic() + SECONDS_UNTIL_SHOWN
    while True:
        try:
            advice = f"run `dvc repro --force --single-item {made_by}`"
            _check_size(file, record, advice)
            break
        except InputError:
            if time.monotonic() >= stop:
                raise
            time.sleep(1)


def check_digests(
    directory: Path,
    files: Mapping[str, FileRecord],
    *,
    made_by: str,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Check the files of a folder, or this process's share of them, to the last bit.

    Args:
        directory: The folder.
        files: The record of each file, by its name.
        made_by: The stage to run again when something is wrong.
        share: `(number, of)`: every `of`-th file is read, beginning with `number`.

    Raises:
        InputError: A file is damaged.
    """
    number, of = share
    for name in [*files][number::of]:
        if sha256_of(directory / name) != files[name].sha256:
            raise InputError(
                f"{directory / name} is damaged: its contents are not what {made_by} "
                f"wrote; run `dvc repro --force --single-item {made_by}`"
            )
