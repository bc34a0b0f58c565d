"""Where the text comes from: documents, one after another, never all in memory."""

import hashlib
import json
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from toygpt.data.inventory import Inventory, Reason
from toygpt.pipeline.errors import InputError

DOCUMENTS_FILE = "documents.parquet"
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "group", "text")])
# Text that is kept in memory before it is written, and read again at once.
BYTES_PER_ROW_GROUP = 8_000_000

# Folders of the standard library that are not its source text: tests, and what other
# projects ship inside it.
NOT_THE_LIBRARY = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "ensurepip",
    "__pycache__",
}
# Made by programs, not by people: the build's settings, pydoc's bundled manual, and the
# tables of character sets, which say so in their first lines.
GENERATED_NAMES = ("_sysconfigdata", "topics.py")
GENERATED_MARK = b"generated from"


class Document(NamedTuple):
    """A text, and the group that a split must not tear apart (a book, a package)."""

    id: str
    group: str
    text: str


class RawDocument(NamedTuple):
    """A document as it was found; bytes that are no UTF-8 are not text yet."""

    id: str
    group: str
    content: bytes


def read_standard_library() -> Iterator[RawDocument]:
    """Yield the source files of the running Python's own library, in stable order."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if not NOT_THE_LIBRARY.isdisjoint(inside.parts):
            continue
        content = path.read_bytes()
        if path.name.startswith(GENERATED_NAMES) or GENERATED_MARK in content[:300]:
            continue
        group = inside.parts[0].removesuffix(".py")
        yield RawDocument(inside.as_posix(), group, content)


def content_of(row: object, column: str) -> bytes | None:
    """Return the text in a column of a row, as bytes; None where there is none."""
    text = row.get(column) if isinstance(row, dict) else None
    if isinstance(text, str):
        # A lone surrogate has no UTF-8; its bytes will not decode again.
        return text.encode(errors="surrogatepass")
    return text if isinstance(text, bytes) else None


def rows_of_jsonl(lines: Iterable[str | bytes], name: str) -> Iterator[object]:
    """Yield the value in each line of a file.

    Raises:
        InputError: A line is not JSON; the message calls the file by its name.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"{name}, line {number}, is not JSON: {error}"
                ) from None


def clean(documents: Iterable[RawDocument], inventory: Inventory) -> Iterator[Document]:
    """Yield the documents that hold text which was not there before.

    Args:
        documents: Documents as they were found.
        inventory: Counts what is not yielded, by reason. All that grows with the corpus
            is a digest of 16 bytes for each document.
    """
    seen: set[bytes] = set()
    for document in documents:
        try:
            text = document.content.decode("utf-8-sig")
        except UnicodeDecodeError:
            inventory.leave_out(Reason.NOT_UTF8, document.id)
            continue
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if not text.strip():
            inventory.leave_out(Reason.EMPTY, document.id)
        elif digest in seen:
            inventory.leave_out(Reason.DUPLICATE, document.id)
        else:
            seen.add(digest)
            yield Document(_printable(document.id), _printable(document.group), text)


def _printable(name: str) -> str:
    """Return a name that can be written as UTF-8: on Linux, not every file's can."""
    return name.encode("utf-8", errors="backslashreplace").decode()


def write_documents(documents: Iterable[Document], directory: Path) -> None:
    """Write documents as Parquet, a few megabytes at a time."""
    waiting: list[Document] = []
    waiting_bytes = 0
    with pq.ParquetWriter(
        directory / DOCUMENTS_FILE,
        SCHEMA,
        compression="zstd",
        write_page_checksum=True,
    ) as writer:
        for document in documents:
            waiting.append(document)
            waiting_bytes += len(document.text.encode())
            if waiting_bytes >= BYTES_PER_ROW_GROUP:
                writer.write_table(_to_table(waiting))
                waiting, waiting_bytes = [], 0
        if waiting:
            writer.write_table(_to_table(waiting))


def _to_table(documents: list[Document]) -> pa.Table:
    return pa.Table.from_pylist([d._asdict() for d in documents], schema=SCHEMA)


def read_texts(directory: Path) -> Iterator[list[str]]:
    """Yield the texts of all documents, in order, in lists of a few megabytes."""
    yield from _read_column(directory, "text")


def count_bytes(directory: Path) -> int:
    """Return how many bytes of UTF-8 the texts of all documents have.

    No string is made of them.
    """
    return sum(_read_column(directory, "text", _length_in_bytes))


def read_groups(directory: Path) -> Iterator[str]:
    """Yield the group of each document, in order."""
    for groups in _read_column(directory, "group"):
        yield from groups


def _length_in_bytes(texts: pa.ChunkedArray) -> int:
    return int(pc.sum(pc.binary_length(texts), min_count=0).as_py())


def _read_column(
    directory: Path,
    name: str,
    take: Callable[[pa.ChunkedArray], Any] = pa.ChunkedArray.to_pylist,
) -> Iterator[Any]:
    """Yield a column of the documents that `download` wrote, in pieces.

    Args:
        directory: Where they lie.
        name: Of the column.
        take: What to yield of a piece; all of it, as strings, unless said otherwise.

    Raises:
        InputError: They are missing or damaged.
    """
    path = directory / DOCUMENTS_FILE
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, columns=[name])
                yield take(table.column(name))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run `dvc repro download`") from None
    except (OSError, KeyError, UnicodeDecodeError, pa.ArrowException) as error:
        raise InputError(
            f"{path} is damaged ({error}): run "
            f"`dvc repro --force --single-item download`"
        ) from None
