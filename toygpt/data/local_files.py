"""The user's own files: which of them are text, and how each kind is read."""

import bz2
import csv
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import pyarrow as pa

from toygpt.data.corpus import Found, RawDocument, check_unchanged, found_file
from toygpt.data.inventory import Inventory, LeftOutError, Reason
from toygpt.data.tables import (
    CSV_DELIMITERS,
    JSON_SUFFIXES,
    documents_of_rows,
    rows_of_csv,
    rows_of_json,
    rows_of_parquet,
)
from toygpt.data.text_decoding import HEAD_BYTES, as_text, as_utf8, encoding_of
from toygpt.pipeline.errors import InputError, first_line

# Formats whose bytes are, or may look like, text, but mostly markup.
NO_READER_SUFFIXES = {
    *(".docx", ".epub", ".fb2", ".htm", ".html", ".ipynb", ".odt", ".pdf", ".ps"),
    *(".rtf", ".svg", ".xhtml", ".xml"),
}
# Arrow's strings are not longer; with room for the names beside the text.
MAX_TEXT_BYTES = 2_000_000_000

UNREADABLE = (
    *(OSError, EOFError, ValueError, OverflowError, RecursionError),
    *(zlib.error, lzma.LZMAError, csv.Error, pa.ArrowException),
)


def _open_plain(path: Path) -> BinaryIO:
    return path.open("rb")


def _open_zstd(path: Path) -> Any:
    return io.BufferedReader(pa.CompressedInputStream(path.open("rb"), "zstd"))


OPENERS: dict[str, Callable[[Path], Any]] = {
    "": _open_plain,
    ".bz2": bz2.open,
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}


def find_files(folder: Path) -> Iterator[Found]:
    """Yield the files in a user's folder, sorted by path, and what is not read there.

    Links to folders are followed, unless their target is read anyway, or holds the link
    itself. Hidden files, and copies by editors (`notes.txt~`), are left out.

    Raises:
        InputError: There is no such folder, or one in it that cannot be read.
    """
    try:
        is_folder = folder.is_dir()
    except OSError as error:  # a folder above it is closed
        raise InputError(f"cannot read {folder}: {error.strerror}") from None
    if not is_folder:
        raise InputError(
            f"there is no folder {str(folder)!r} (corpora.*.folder in params.yaml)"
        )
    try:
        real = folder.resolve()
        yield from _walk(folder, PurePath(), [real], [real])
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from None


def _walk(
    folder: Path, name: PurePath, above: list[Path], read: list[Path]
) -> Iterator[Found]:
    """Walk through a folder.

    Args:
        folder: The folder.
        name: Its name inside the corpus's folder.
        above: The corpus's folder, and the targets of the links on the way to this one.
        read: The corpus's folder, and the targets of all links that were followed.
    """
    for path in sorted(folder.iterdir()):
        inside = name / path.name
        if _is_hidden(path.name):
            yield Found(inside.as_posix(), str(path), left_out=Reason.HIDDEN)
        elif path.is_dir() and not path.is_symlink():
            yield from _walk(path, inside, above, read)
        elif path.is_dir() and not _is_read_anyway(path.resolve(), above, read):
            target = path.resolve()
            read.append(target)
            yield Found(inside.as_posix(), str(path), is_followed=True)
            yield from _walk(path, inside, [*above, target], read)
        elif path.is_file():
            yield found_file(inside.as_posix(), path)
        else:
            yield Found(inside.as_posix(), str(path), left_out=Reason.NOT_A_FILE)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.endswith("~")


def _is_read_anyway(target: Path, above: list[Path], read: list[Path]) -> bool:
    """Return whether a folder is in one that is read, or holds the link to it."""
    return any(folder.is_relative_to(target) for folder in above) or any(
        target.is_relative_to(folder)
        and not any(map(_is_hidden, target.relative_to(folder).parts))
        for folder in read
    )


def read_local_files(
    files: Iterable[Found], inventory: Inventory
) -> Iterator[RawDocument]:
    """Yield the documents in a user's files.

    A text file is one document, and so is each row of a table (JSON, CSV, Parquet). All
    text files in one sub-folder are one group, a text file beside the sub-folders is a
    group of its own, and so is a row, unless its column `group` names one.

    Args:
        files: As `find_files` yields them.
        inventory: Counts the files that are read, and names the files left out.

    Raises:
        InputError: A file cannot be read to its end, or was changed meanwhile.
    """
    for file in files:
        if file.is_followed:
            inventory.followed.append(file.name)
        elif file.left_out is not None:
            inventory.leave_out(file.left_out, file.name)
        else:
            path = Path(file.path)
            suffix, compression = _kind_of(path)
            try:
                yield from _read_file(path, file.name, suffix, OPENERS[compression])
            except InputError:
                raise
            except LeftOutError as found:
                inventory.leave_out(found.reason, file.name, found.note)
            except UNREADABLE as error:
                raise InputError(f"cannot read {path}: {first_line(error)}") from None
            else:
                inventory.num_files[suffix] += 1
            check_unchanged(file)


def _kind_of(path: Path) -> tuple[str, str]:
    """Return the suffix of a file's format, and the suffix of its compression."""
    name = PurePath(path.name.lower())
    if name.suffix in OPENERS:
        return PurePath(name.stem).suffix, name.suffix
    return name.suffix, ""


def _read_file(
    path: Path, name: str, suffix: str, open_file: Callable[[Path], Any]
) -> Iterator[RawDocument]:
    """Yield the documents in a file.

    Raises:
        LeftOutError: The file holds no documents; raised before any is yielded.
    """
    if suffix in NO_READER_SUFFIXES:
        raise LeftOutError(Reason.NO_READER)
    if suffix == ".parquet" and open_file is not _open_plain:
        raise LeftOutError(Reason.NO_READER, "a compressed Parquet file: decompress it")
    if suffix == ".parquet":
        yield from documents_of_rows(rows_of_parquet(path), path, name)
        return
    with open_file(path) as file:
        head = file.peek(HEAD_BYTES)[:HEAD_BYTES]
        encoding = encoding_of(head)
        if suffix in JSON_SUFFIXES:
            rows = rows_of_json(file, head, path, suffix)
            yield from documents_of_rows(rows, path, name)
        elif suffix in CSV_DELIMITERS:
            with as_text(file, encoding, newline="") as lines:
                rows = rows_of_csv(lines, path, suffix)
                yield from documents_of_rows(rows, path, name)
        else:
            content = as_utf8(file.read())
            if len(content) > MAX_TEXT_BYTES:
                raise InputError(
                    f"{path} is one text of more than {MAX_TEXT_BYTES:,} bytes, which "
                    f"is more than a document may have: cut it, for example with "
                    f"split -C 1G FILE NEW_FILE."
                )
            yield RawDocument(name, PurePath(name).parts[0], content)
