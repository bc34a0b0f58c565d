"""The user's own files: which of them are text, and how each kind is read."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import sys
import textwrap
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from toygpt.data.corpus import RawDocument, content_of, rows_of_jsonl
from toygpt.data.inventory import Inventory, Reason
from toygpt.pipeline.errors import InputError, first_line

# Formats whose bytes are, or may look like, text, but mostly markup.
NO_READER_SUFFIXES = {
    *(".docx", ".epub", ".fb2", ".htm", ".html", ".ipynb", ".odt", ".pdf", ".ps"),
    *(".rtf", ".svg", ".xhtml", ".xml"),
}
JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
CSV_DELIMITERS = {".csv": ",;\t", ".tsv": "\t,;"}

# JSON that is not lines is parsed as a whole, which takes several times its size.
MAX_JSON_BYTES = 1_000_000_000
# Arrow's strings are not longer; with room for the names beside the text.
MAX_TEXT_BYTES = 2_000_000_000
# Of a file's beginning: enough to see what it is. Git looks at as many.
HEAD_BYTES = 8_000

# Longer ones first: UTF-32's begins with UTF-16's.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}

AS_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}

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


class NotTextError(Exception):
    """A file that is left out of the corpus, with the reason."""

    def __init__(self, reason: Reason, note: str = "") -> None:
        super().__init__(reason, note)
        self.reason = reason
        self.note = note


def read_local_files(folder: Path, inventory: Inventory) -> Iterator[RawDocument]:
    """Yield what a user's folder holds, sorted by path.

    A text file is one document, and so is each row of a table (JSON, CSV, Parquet).
    What lies in one folder of `folder` is one group; a file that lies in none, or a row
    with a column `group`, is or names its own.

    Args:
        folder: Where the files are.
        inventory: Counts what is read, and names what is left out.

    Raises:
        InputError: No such folder, or a file that cannot be read to its end.
    """
    try:
        is_folder = folder.is_dir()
    except OSError as error:  # a folder above it is closed
        raise InputError(f"cannot read {folder}: {error.strerror}") from None
    if not is_folder:
        raise InputError(
            f"there is no folder {str(folder)!r} (corpora.*.folder in params.yaml)"
        )
    for path, name in find_files(folder, inventory):
        suffix, compression = _kind_of(path)
        try:
            yield from _read_file(path, name, suffix, OPENERS[compression])
        except InputError:
            raise
        except NotTextError as found:
            inventory.leave_out(found.reason, name, found.note)
        except UNREADABLE as error:
            raise InputError(f"cannot read {path}: {first_line(error)}") from None
        else:
            inventory.num_files[suffix] += 1


def find_files(folder: Path, inventory: Inventory) -> Iterator[tuple[Path, str]]:
    """Yield the files in a folder, and the names that they have there, sorted.

    Links to folders are followed, unless what they lead to is read anyway, or holds
    the link itself. Hidden files, and the copies that editors leave (`notes.txt~`), are
    left out.

    Raises:
        InputError: A folder in it cannot be read.
    """
    try:
        real = folder.resolve()
        yield from _walk(folder, PurePath(), [real], [real], inventory)
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from None


def _walk(
    folder: Path,
    name: PurePath,
    above: list[Path],
    read: list[Path],
    inventory: Inventory,
) -> Iterator[tuple[Path, str]]:
    """Walk through a folder.

    Args:
        folder: Where to look.
        name: Of the folder, inside that of the corpus.
        above: The corpus's folder, and what the links on the way to this one lead to.
        read: The corpus's folder, and what all links that were followed lead to.
        inventory: As in `find_files`.
    """
    for path in sorted(folder.iterdir()):
        inside = name / path.name
        if _is_hidden(path.name):
            inventory.leave_out(Reason.HIDDEN, inside.as_posix())
        elif path.is_dir() and not path.is_symlink():
            yield from _walk(path, inside, above, read, inventory)
        elif path.is_dir() and not _is_read_anyway(path.resolve(), above, read):
            target = path.resolve()
            read.append(target)
            inventory.followed.append(inside.as_posix())
            yield from _walk(path, inside, [*above, target], read, inventory)
        elif path.is_file():
            yield path, inside.as_posix()
        else:
            inventory.leave_out(Reason.NOT_A_FILE, inside.as_posix())


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.endswith("~")


def _is_read_anyway(target: Path, above: list[Path], read: list[Path]) -> bool:
    """Say whether a folder lies in one that is read, or holds the link to it."""
    return any(folder.is_relative_to(target) for folder in above) or any(
        target.is_relative_to(folder)
        and not any(map(_is_hidden, target.relative_to(folder).parts))
        for folder in read
    )


def _kind_of(path: Path) -> tuple[str, str]:
    """Return the suffix that says what a file holds, and the one of its compression."""
    name = PurePath(path.name.lower())
    if name.suffix in OPENERS:
        return PurePath(name.stem).suffix, name.suffix
    return name.suffix, ""


def _read_file(
    path: Path, name: str, suffix: str, open_file: Callable[[Path], Any]
) -> Iterator[RawDocument]:
    """Yield the documents in a file.

    Raises:
        NotTextError: There are none; raised before any is yielded.
    """
    if suffix in NO_READER_SUFFIXES:
        raise NotTextError(Reason.NO_READER)
    if suffix == ".parquet" and open_file is not _open_plain:
        raise NotTextError(Reason.NO_READER, "a compressed Parquet file: decompress it")
    if suffix == ".parquet":
        yield from _read_rows(_rows_of_parquet(path), path, name)
        return
    with open_file(path) as file:
        head = file.peek(HEAD_BYTES)[:HEAD_BYTES]
        encoding = encoding_of(head)
        if suffix in JSON_SUFFIXES:
            yield from _read_rows(_rows_of_json(file, head, path, suffix), path, name)
        elif suffix in CSV_DELIMITERS:
            with _as_text(file, encoding, newline="") as lines:
                yield from _read_rows(_rows_of_csv(lines, path, suffix), path, name)
        else:
            content = as_utf8(file.read())
            if len(content) > MAX_TEXT_BYTES:
                raise InputError(
                    f"{path} is one text of more than {MAX_TEXT_BYTES:,} bytes, which "
                    f"is more than a document may have: cut it, for example with "
                    f"split -C 1G FILE NEW_FILE."
                )
            yield RawDocument(name, PurePath(name).parts[0], content)


def encoding_of(head: bytes) -> str:
    """Return the encoding of a text, by its first bytes.

    Raises:
        NotTextError: They are not text, or UTF-16 without a byte order mark.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        if guess := _guess_utf16(head):
            raise NotTextError(Reason.UNMARKED_UTF16, guess)
        raise NotTextError(Reason.BINARY)
    return "utf-8"


def _guess_utf16(head: bytes) -> str | None:
    """Return which kind of UTF-16 a text is that does not say so, or None.

    One byte of two is zero in most alphabets' texts, or in their spaces at least.
    """
    head = head[: len(head) // 2 * 2]
    zeros = [head[0::2].count(0), head[1::2].count(0)]
    if min(zeros) or max(zeros) * 20 < len(head):
        return None
    guess = "utf-16le" if zeros[1] else "utf-16be"
    # The head may end within a character of two units.
    text = head.decode(guess, errors="ignore")
    is_text = all(
        char in "\t\n\r\f" or unicodedata.category(char) not in ("Cc", "Cn", "Co")
        for char in text
    )
    return guess if is_text else None


def as_utf8(content: bytes) -> bytes:
    """Return a text in UTF-8, from UTF-8 or what its byte order mark says.

    Raises:
        NotTextError: It is not text, or in another encoding.
    """
    encoding = encoding_of(content[:HEAD_BYTES])
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        is_binary = encoding != "utf-8" or _has_control_characters(content[:HEAD_BYTES])
        reason = Reason.BINARY if is_binary else Reason.NOT_UTF8
        raise NotTextError(reason) from None
    if "\0" in text:
        raise NotTextError(Reason.BINARY)
    return content if encoding.startswith("utf-8") else text.encode()


def _has_control_characters(head: bytes) -> bool:
    """Say whether there are bytes that no text of any alphabet has."""
    return not set(range(32)).difference(b"\t\n\v\f\r\b\x1a\x1b").isdisjoint(head)


def _read_rows(rows: Iterable[object], path: Path, name: str) -> Iterator[RawDocument]:
    """Yield the rows of a table as documents.

    Raises:
        NotTextError: There are none, or the first one has no text in a column `text`.
        InputError: A later one has none, or the text of the first one is null.
    """
    number = 0
    for number, row in enumerate(rows, start=1):
        row = {"text": row} if isinstance(row, str) else row
        content = content_of(row, "text")
        if content is None:
            columns = row if isinstance(row, dict) else {}
            if number == 1 and columns.get("text", 0) is not None:
                raise NotTextError(Reason.NO_TEXT_COLUMN, _columns([*columns]))
            raise InputError(f"{path}, row {number}: no string in a column `text`")
        document_id = f"{name}:{number}"
        group = row["group"] if isinstance(row, dict) and "group" in row else None
        if isinstance(group, bytes):
            group = group.decode(errors="backslashreplace")
        yield RawDocument(
            document_id, document_id if group is None else str(group), content
        )
    if not number:
        raise NotTextError(Reason.EMPTY)


def _columns(names: Sequence[object]) -> str:
    """Say which columns a table has instead of `text`."""
    # Where a table does not name its columns, its first row is taken for their names.
    shown = [textwrap.shorten(str(name), 30, placeholder="…") for name in names[:5]]
    return f"has {', '.join(shown) or 'none'}{', …' if len(names) > 5 else ''}"


def _rows_of_json(
    file: BinaryIO, head: bytes, path: Path, suffix: str
) -> Iterator[object]:
    """Yield the rows of JSON: those of an array, one in each line, or a single one."""
    encoding = encoding_of(head)
    is_one_value = head.decode(encoding, errors="ignore").lstrip().startswith("[")
    beginning: list[str] = []
    with _as_text(file, encoding, newline="\n") as lines:
        if suffix == ".json" and not is_one_value:
            # It may be lines all the same: if the first of them is JSON by itself.
            while (line := lines.readline()) and not line.strip():
                beginning.append(line)
            beginning.append(line)
            is_one_value = not _is_json(line)
        if is_one_value:
            yield from _rows_of_one_value(beginning, lines, path, suffix)
        else:
            yield from rows_of_jsonl(chain(beginning, lines), str(path))


def _as_text(file: BinaryIO, encoding: str, *, newline: str) -> TextIO:
    """Return a file to be read as text; an error of UTF-8 costs its row alone."""
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    return io.TextIOWrapper(file, encoding, errors, newline=newline)


def _rows_of_one_value(
    beginning: list[str], rest: TextIO, path: Path, suffix: str
) -> Iterator[object]:
    """Yield the rows of JSON that can only be parsed as a whole."""
    content = rest.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise InputError(
            f"{path} is one JSON value of more than {MAX_JSON_BYTES:,} bytes, which "
            f"would have to be parsed as a whole; write it as lines: "
            f"jq -c '.[]' FILE > NEW_FILE.jsonl"
        )
    text = "".join([*beginning, content])
    try:
        text.encode()
        value = json.loads(text)
    except UnicodeEncodeError:
        raise NotTextError(Reason.NOT_UTF8) from None
    except (ValueError, RecursionError) as error:
        if suffix == ".json":
            raise NotTextError(Reason.NO_TEXT_COLUMN, "is not JSON") from None
        raise InputError(f"{path} is not JSON: {error}") from None
    yield from value if isinstance(value, list) else [value]


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _rows_of_csv(lines: TextIO, path: Path, suffix: str) -> Iterator[object]:
    """Yield the rows of comma-, semicolon- or tab-separated values."""
    csv.field_size_limit(sys.maxsize)
    first = next((line for line in lines if line.strip()), "")
    headers = [
        (delimiter, [name.strip() for name in _fields_of(first, delimiter)])
        for delimiter in CSV_DELIMITERS[suffix]  # of equally good ones, the first
    ]
    delimiter, columns = max(
        headers, key=lambda header: ("text" in header[1], len(header[1]))
    )
    if columns and "text" not in columns:
        raise NotTextError(Reason.NO_TEXT_COLUMN, _columns(columns))
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for row in rows:
            if len(row) not in (0, len(columns)):
                raise csv.Error(
                    f"{len(row)} fields, but the first line names {len(columns)} "
                    f"columns (text with a {delimiter!r} in it must be quoted)"
                )
            if row:
                found = dict(zip(columns, row, strict=True))
                # An empty field says that there is no group.
                yield {"text": found["text"], "group": found.get("group") or None}
    except csv.Error as error:
        line = rows.line_num + 1
        raise InputError(f"cannot read {path}, line {line}: {error}") from None


def _fields_of(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _rows_of_parquet(path: Path) -> Iterator[object]:
    with pq.ParquetFile(path) as file:
        wanted = [n for n in ("text", "group") if n in file.schema_arrow.names]
        if "text" not in wanted:
            raise NotTextError(Reason.NO_TEXT_COLUMN, _columns(file.schema_arrow.names))
        for batch in file.iter_batches(batch_size=1000, columns=wanted):
            # Strings as bytes: not every writer cares that they are UTF-8.
            columns = {
                name: values.cast(AS_BYTES.get(values.type, values.type))
                for name, values in zip(wanted, batch.columns, strict=True)
            }
            yield from pa.RecordBatch.from_pydict(columns).to_pylist()
