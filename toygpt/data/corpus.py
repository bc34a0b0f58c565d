"""Where the text comes from: documents, one after another, never all in memory."""

import gzip
import hashlib
import json
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from toygpt.errors import InputError

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

AS_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}

READABLE_SUFFIXES = (".jsonl", ".md", ".parquet", ".py", ".txt")


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


def read_local_files(folder: Path) -> Iterator[RawDocument]:
    """Yield what a user's folder holds, in stable order; hidden files are left out.

    A text file is one document, and so is each row of a .jsonl or .parquet file. What
    lies in one folder of `folder` is one group; a file that lies in none, or a row
    with a column `group`, is or names its own.

    Raises:
        InputError: No such folder, nothing readable in it, or a damaged file.
    """
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {str(folder)!r} (corpora.*.folder in params.yaml)"
        )
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in READABLE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise InputError(
            f"the folder {str(folder)!r} (corpora.*.folder in params.yaml) holds no "
            f"{', '.join(READABLE_SUFFIXES)} file"
        )
    for path in files:
        inside = path.relative_to(folder)
        try:
            yield from _read_file(path, inside.as_posix(), group=inside.parts[0])
        except InputError:
            raise
        except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
            raise InputError(f"cannot read {path}: {error}") from None


def _read_file(path: Path, name: str, *, group: str) -> Iterator[RawDocument]:
    match path.suffix.lower():
        case ".jsonl":
            yield from _read_rows(rows_of_jsonl(path, str(path)), path, name)
        case ".parquet":
            yield from _read_rows(_rows_of_parquet(path), path, name)
        case _:
            yield RawDocument(name, group, path.read_bytes())


def _read_rows(rows: Iterable[object], path: Path, name: str) -> Iterator[RawDocument]:
    for number, row in enumerate(rows, start=1):
        content = content_of(row, "text")
        if content is None:
            raise InputError(f"{path}, row {number}: no string in a column `text`")
        document_id = f"{name}:{number}"
        group = row["group"] if isinstance(row, dict) and "group" in row else None
        if isinstance(group, bytes):
            group = group.decode(errors="backslashreplace")
        yield RawDocument(
            document_id, document_id if group is None else str(group), content
        )


def content_of(row: object, column: str) -> bytes | None:
    """Return the text in a column of a row, as bytes; None where there is none."""
    text = row.get(column) if isinstance(row, dict) else None
    if isinstance(text, str):
        # A lone surrogate has no UTF-8; its bytes will not decode again.
        return text.encode(errors="surrogatepass")
    return text if isinstance(text, bytes) else None


def rows_of_jsonl(path: Path, name: str) -> Iterator[object]:
    """Yield the value in each line of a file, which may be compressed (.gz).

    Raises:
        InputError: A line is not JSON; the message calls the file by its name.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(
                        f"{name}, line {number}, is not JSON: {error}"
                    ) from None


def _rows_of_parquet(path: Path) -> Iterator[object]:
    with pq.ParquetFile(path) as file:
        wanted = [n for n in ("text", "group") if n in file.schema_arrow.names]
        if "text" not in wanted:
            yield {}  # a row without text, to be complained of as such
            return
        for batch in file.iter_batches(batch_size=1000, columns=wanted):
            # Strings as bytes: not every writer cares that they are UTF-8.
            columns = {
                name: values.cast(AS_BYTES.get(values.type, values.type))
                for name, values in zip(wanted, batch.columns, strict=True)
            }
            yield from pa.RecordBatch.from_pydict(columns).to_pylist()


def clean(
    documents: Iterable[RawDocument], left_out: Counter[str]
) -> Iterator[Document]:
    """Yield the documents that hold text which was not there before.

    Args:
        documents: Documents as they were found.
        left_out: Counts what is not yielded, by reason. All that grows with the corpus
            is a digest of 16 bytes for each document.
    """
    seen: set[bytes] = set()
    for document in documents:
        try:
            text = document.content.decode("utf-8-sig")
        except UnicodeDecodeError:
            left_out["not_utf8"] += 1
            continue
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if not text.strip():
            left_out["empty"] += 1
        elif digest in seen:
            left_out["duplicate"] += 1
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
