"""Tables of the user's own files: each row of JSON, CSV or Parquet is a document."""

import csv
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from toygpt.data.corpus import RawDocument, content_of, rows_of_jsonl
from toygpt.data.inventory import LeftOutError, Reason
from toygpt.data.text_decoding import as_text, encoding_of
from toygpt.pipeline.errors import InputError

JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
CSV_DELIMITERS = {".csv": ",;\t", ".tsv": "\t,;"}

# JSON that is not lines is parsed as a whole, which takes several times its size.
MAX_JSON_BYTES = 1_000_000_000

AS_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}


def documents_of_rows(
    rows: Iterable[object], path: Path, name: str
) -> Iterator[RawDocument]:
    """Yield the rows of a table as documents.

    Raises:
        LeftOutError: There are no rows, or the first has no text in a column `text`.
        InputError: A later row has no text, or the text of the first row is null.
    """
    number = 0
    for number, row in enumerate(rows, start=1):
        row = {"text": row} if isinstance(row, str) else row
        content = content_of(row, "text")
        if content is None:
            columns = row if isinstance(row, dict) else {}
            if number == 1 and columns.get("text", 0) is not None:
                raise LeftOutError(Reason.NO_TEXT_COLUMN, _columns([*columns]))
            raise InputError(f"{path}, row {number}: no string in a column `text`")
        document_id = f"{name}:{number}"
        group = row["group"] if isinstance(row, dict) and "group" in row else None
        if isinstance(group, bytes):
            group = group.decode(errors="backslashreplace")
        yield RawDocument(
            document_id, document_id if group is None else str(group), content
        )
    if not number:
        raise LeftOutError(Reason.EMPTY)


def _columns(names: Sequence[object]) -> str:
    """Return which columns a table has instead of `text`, in words."""
    # The first row of a table without a header is taken for the names of its columns.
    shown = [textwrap.shorten(str(name), 30, placeholder="…") for name in names[:5]]
    return f"has {', '.join(shown) or 'none'}{', …' if len(names) > 5 else ''}"


def rows_of_json(
    file: BinaryIO, head: bytes, path: Path, suffix: str
) -> Iterator[object]:
    """Yield the rows of JSON: an array, one row in each line, or a single row."""
    encoding = encoding_of(head)
    is_one_value = head.decode(encoding, errors="ignore").lstrip().startswith("[")
    beginning: list[str] = []
    with as_text(file, encoding, newline="\n") as lines:
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
        raise LeftOutError(Reason.NOT_UTF8) from None
    except (ValueError, RecursionError) as error:
        if suffix == ".json":
            raise LeftOutError(Reason.NO_TEXT_COLUMN, "is not JSON") from None
        raise InputError(f"{path} is not JSON: {error}") from None
    yield from value if isinstance(value, list) else [value]


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def rows_of_csv(lines: TextIO, path: Path, suffix: str) -> Iterator[object]:
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
        raise LeftOutError(Reason.NO_TEXT_COLUMN, _columns(columns))
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
                # An empty field means that the row has no group.
                yield {"text": found["text"], "group": found.get("group") or None}
    except csv.Error as error:
        line = rows.line_num + 1
        raise InputError(f"cannot read {path}, line {line}: {error}") from None


def _fields_of(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def rows_of_parquet(path: Path) -> Iterator[object]:
    """Yield the rows of a Parquet file: the columns `text` and `group`."""
    with pq.ParquetFile(path) as file:
        wanted = [n for n in ("text", "group") if n in file.schema_arrow.names]
        if "text" not in wanted:
            raise LeftOutError(Reason.NO_TEXT_COLUMN, _columns(file.schema_arrow.names))
        for batch in file.iter_batches(batch_size=1000, columns=wanted):
            # Strings as bytes: not every writer cares that they are UTF-8.
            columns = {
                name: values.cast(AS_BYTES.get(values.type, values.type))
                for name, values in zip(wanted, batch.columns, strict=True)
            }
            yield from pa.RecordBatch.from_pydict(columns).to_pylist()
