"""The user's own files: each kind is read, or left out by name."""

import bz2
import gzip
import io
import json
import lzma
import os
import sys
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.written import write_documents
from tests.faults.damaged import truncated, without_data
from toygpt.data import local_files, tables
from toygpt.data.corpus import RawDocument, clean
from toygpt.data.documents import read_groups, read_texts
from toygpt.data.inventory import Inventory, Reason
from toygpt.data.local_files import find_files, read_local_files
from toygpt.data.shards import THE_ONLY_SHARD
from toygpt.pipeline.errors import InputError


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def read(folder: Path) -> list[RawDocument]:
    return list(read_local_files(find_files(folder), Inventory()))


def taken(folder: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the texts of a folder by their names, and what is left out, by reason."""
    inventory = Inventory()
    documents = clean(read_local_files(find_files(folder), inventory), inventory)
    texts = {document.id: document.text for document, _ in documents}
    return texts, {reason.key: names for reason, names in inventory.names.items()}


def complaint(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(folder)
    return str(caught.value)


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd"))


def not_utf8(*texts: bytes) -> pa.Array:
    """Return strings that are not UTF-8, as careless programs write them."""
    return pa.array(texts, pa.binary()).view(pa.string())


def parquet(columns: Mapping[str, object] | pa.Table) -> bytes:
    table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


ROWS = [{"text": "grün"}, {"text": "gelb", "stars": 5}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
CSV = 'id,text\n1,grün\n2,"""gelb""\n, rot"\n'

READ: dict[str, tuple[str | bytes, list[str]]] = {
    # Text under any name, in UTF-8 or what a byte order mark says.
    "plain.txt": ("grün", ["grün"]),
    "marked.MD": ("# grün", ["# grün"]),
    "README": ("grün", ["grün"]),
    "form feed.log": ("a\f\x1b[0mb", ["a\f\x1b[0mb"]),
    "utf-8.txt": ("grün".encode("utf-8-sig"), ["grün"]),
    "utf-16.txt": ("grün".encode("utf-16"), ["grün"]),
    "utf-16be.txt": ("\ufeffgrün".encode("utf-16-be"), ["grün"]),
    "utf-32.txt": ("grün".encode("utf-32"), ["grün"]),
    "utf-32be.txt": ("\ufeffgrün".encode("utf-32-be"), ["grün"]),
    # Compressed.
    "a.txt.gz": (gzip.compress(b"text"), ["text"]),
    "two.txt.gz": (gzip.compress(b"te") + gzip.compress(b"xt"), ["text"]),
    "a.txt.bz2": (bz2.compress(b"text"), ["text"]),
    "a.txt.XZ": (lzma.compress(b"text"), ["text"]),
    "a.txt.zst": (zstd(b"text"), ["text"]),
    "a.jsonl.gz": (gzip.compress(LINES.encode()), ["grün", "gelb"]),
    "a.csv.gz": (gzip.compress(CSV.encode()), ["grün", '"gelb"\n, rot']),
    # JSON.
    "a.jsonl": (LINES, ["grün", "gelb"]),
    "a.ndjson": (LINES, ["grün", "gelb"]),
    "utf-8.jsonl": (LINES.encode("utf-8-sig"), ["grün", "gelb"]),
    "utf-16.jsonl": (LINES.encode("utf-16"), ["grün", "gelb"]),
    "array.jsonl": (json.dumps(ROWS, indent=1), ["grün", "gelb"]),
    "array.json": (json.dumps(ROWS), ["grün", "gelb"]),
    "utf-8.json": (json.dumps(ROWS).encode("utf-8-sig"), ["grün", "gelb"]),
    "utf-16.json": (json.dumps(ROWS, indent=1).encode("utf-16"), ["grün", "gelb"]),
    "strings.json": ('["grün", "gelb"]', ["grün", "gelb"]),
    "object.json": (json.dumps(ROWS[0], indent=1), ["grün"]),
    "lines.json": ("\n" + LINES, ["grün", "gelb"]),
    "long line.json": ('{"text": "' + "a" * 20_000 + '"}\n' + LINES, ["a" * 20_000]),
    # Tables.
    "a.csv": (CSV, ["grün", '"gelb"\n, rot']),
    "excel.csv": ("id;text\r\n1;grün, rot\r\n".encode("utf-16"), ["grün, rot"]),
    "one column.csv": ("\ufefftext\r\n\r\n1\r\n", ["1"]),
    "mac.csv": ("text,id\rgrün,1\r", ["grün"]),
    "a.tsv": ("text\tid\ngrün, rot\t1\n", ["grün, rot"]),
    "one column.tsv": ("text\ngrün, rot\n", ["grün, rot"]),
    "spaces.csv": ("id, text\n1,grün\n", ["grün"]),
    "a.parquet": (parquet({"text": ["grün", "gelb"]}), ["grün", "gelb"]),
    # A field of any length: Python's reader takes 131,072 characters by default.
    "long field.csv": (f'text\n"{"a, " * 100_000}"\n', ["a, " * 100_000]),
    "empty lines.jsonl": ('\n{"text": "1"}\r\n  \n{"text": "2"}', ["1", "2"]),
}


@pytest.mark.parametrize("name", READ)
def test_each_kind_of_file_is_read(tmp_path: Path, name: str) -> None:
    content, expected = READ[name]
    write(tmp_path, {name: content})

    texts, left_out = taken(tmp_path)

    assert [*texts.values()][: len(expected)] == expected
    assert not left_out


LEFT_OUT: dict[str, tuple[str | bytes, Reason, str]] = {
    "latin-1.txt": ("grün".encode("latin-1"), Reason.NOT_UTF8, ""),
    "latin-1.txt.gz": (gzip.compress(b"gr\xfcn"), Reason.NOT_UTF8, ""),
    "latin-1.json": (b'["gr\xfcn"]', Reason.NOT_UTF8, ""),
    "late.txt": (b"a" * 100_000 + b"\xfc", Reason.NOT_UTF8, ""),
    "le.txt": ("grün".encode("utf-16-le"), Reason.UNMARKED_UTF16, "utf-16le"),
    "be.csv": ("text\ngrün\n".encode("utf-16-be"), Reason.UNMARKED_UTF16, "utf-16be"),
    "le.jsonl": (LINES.encode("utf-16-le"), Reason.UNMARKED_UTF16, "utf-16le"),
    "ru.txt": ("и тут, и там\n".encode("utf-16-le"), Reason.UNMARKED_UTF16, "utf-16le"),
    "photo": (b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0", Reason.BINARY, ""),
    "mp3.txt": (b"\xff\xfe\x00\xd8\x00", Reason.BINARY, ""),
    "controls.txt": (b"BZh9\x01\xff\x02", Reason.BINARY, ""),
    "nul.txt": (b"one\0" + b"two " * 10, Reason.BINARY, ""),
    "late nul.txt": (b"a" * 100_000 + b"\0", Reason.BINARY, ""),
    "zeros.jsonl": (bytes(10_000), Reason.BINARY, ""),
    "page.HTML": ("<p>text</p>", Reason.NO_READER, ""),
    "page.html.gz": (gzip.compress(b"<p>text</p>"), Reason.NO_READER, ""),
    "a.parquet.gz": (b"", Reason.NO_READER, "a compressed Parquet file: decompress it"),
    "paper.pdf": ("%PDF-1.4", Reason.NO_READER, ""),
    "numbers.csv": ("a;b\n1;2\n", Reason.NO_TEXT_COLUMN, "has a, b"),
    "wide.csv": ("a,b,c,d,e,f\n", Reason.NO_TEXT_COLUMN, "has a, b, c, d, e, …"),
    "package.json": ('{\n"name": "a"\n}', Reason.NO_TEXT_COLUMN, "has name"),
    "vocab.json": ('{"a": 0, "text": 1}\n', Reason.NO_TEXT_COLUMN, "has a, text"),
    "chart.json": ('{\n"text": {}\n}', Reason.NO_TEXT_COLUMN, "has text"),
    "comments.json": ("{ // so\n}", Reason.NO_TEXT_COLUMN, "is not JSON"),
    "numbers.json": ("[1, 2]", Reason.NO_TEXT_COLUMN, "has none"),
    "log.jsonl": ('{"step": 1}\n', Reason.NO_TEXT_COLUMN, "has step"),
    "a.parquet": (parquet({"txt": ["a"]}), Reason.NO_TEXT_COLUMN, "has txt"),
    "b.parquet": (parquet({"text": [7]}), Reason.NO_TEXT_COLUMN, "has text"),
    "empty.txt": (" \n", Reason.EMPTY, ""),
    "empty.json": ("", Reason.NO_TEXT_COLUMN, "is not JSON"),
    "empty.csv": ("\ufeff", Reason.EMPTY, ""),
    "header.csv": ("id,text\n", Reason.EMPTY, ""),
    "none.json": ("[]", Reason.EMPTY, ""),
    ".secret.txt": ("text", Reason.HIDDEN, ""),
    ".git/config": ("text", Reason.HIDDEN, ""),
    "notes.txt~": ("text", Reason.HIDDEN, ""),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_not_read_is_named_with_the_reason(tmp_path: Path, name: str) -> None:
    """And the others are read."""
    content, reason, note = LEFT_OUT[name]
    write(tmp_path / ".home" / "texts", {name: content, "a/b.txt": "read"})

    texts, left_out = taken(tmp_path / ".home" / "texts")

    assert texts == {"a/b.txt": "read"}
    shown = name.partition("/")[0]
    assert left_out == {reason.key: [f"{shown} ({note})" if note else shown]}


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        # Some program wrote Latin-1, or what Parquet promises not to hold.
        ("a.csv", b"text\ngr\xfcn\nrot\n", "rot"),
        ("a.jsonl", b'{"text": "gr\xfcn"}\n{"text": "rot"}\n', "rot"),
        ("a.json", b'{"text": "gr\xfcn"}\n{"text": "rot"}\n', "rot"),
        ("a.parquet", parquet({"text": not_utf8(b"\xff", b"rot")}), "rot"),
        # Half an emoji, which no UTF-8 can hold, and a whole one.
        ("b.jsonl", b'{"text": "\\ud83d"}\n{"text": "\\ud83d\\ude00"}', "\U0001f600"),
    ],
)
def test_rows_that_are_not_utf8_cost_themselves_alone(
    tmp_path: Path, name: str, content: bytes, text: str
) -> None:
    write(tmp_path, {name: content})

    assert taken(tmp_path) == ({f"{name}:2": text}, {"not_utf8": [f"{name}:1"]})


def test_groups_that_are_not_utf8_are_written_by_their_codes(tmp_path: Path) -> None:
    groups = not_utf8(b"\xed\xa0\x80", b"\xff\0")
    write(
        tmp_path,
        {
            "a.jsonl": '{"text": "a\\u0000", "group": "\\udfff"}',
            "b.parquet": parquet({"text": ["b", "c"], "group": groups}),
        },
    )

    written = tmp_path / "documents"
    written.mkdir()
    write_documents(list(read(tmp_path)), written)

    assert list(read_texts(written, THE_ONLY_SHARD)) == [["a\0", "b", "c"]]
    expected = ["\\udfff", "\\xed\\xa0\\x80", "\\xff\0"]
    assert list(read_groups(written, THE_ONLY_SHARD)) == expected


@pytest.mark.parametrize(
    ("name", "content", "groups"),
    [
        ("a.csv", "text,group\n1,\n2,book\n3,\n", ["a.csv:1", "book", "a.csv:3"]),
        (
            "a.jsonl",
            '{"text": "1"}\n{"text": "2", "group": 7}\n{"text": "3", "group": null}',
            ["a.jsonl:1", "7", "a.jsonl:3"],
        ),
        (
            "a.parquet",
            parquet({"text": ["1", "2", "3"], "group": ["book", None, "x"]}),
            ["book", "a.parquet:2", "x"],
        ),
    ],
)
def test_rows_are_groups_of_their_own_unless_they_name_one(
    tmp_path: Path, name: str, content: str | bytes, groups: list[str]
) -> None:
    """A split moves all rows of a group together, however many they are."""
    write(tmp_path, {name: content})

    assert [document.group for document in read(tmp_path)] == groups


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        # Else documents would end at their first comma, or run into each other.
        ("a.csv", "text,id\n1,1\n2, too,2\n", "cannot read a.csv, line 3: 3 fields"),
        ("a.csv", "text\none\ntwo, too\n", "cannot read a.csv, line 3: 2 fields"),
        ("a.csv", 'text,id\n"one "two" three",1\n', "cannot read a.csv, line 2: "),
        ("a.csv", 'text,id\n"one,1\ntwo,2\n', "cannot read a.csv, line 3: unexpected"),
        *(
            ("a.jsonl", f'{{"text": "fine"}}\n\n{line}\n', "a.jsonl, line 3,")
            for line in ('{"text": "cut off', "plain text", "[" * 100_000, "9" * 10_000)
        ),
        *(
            ("a.jsonl", f'{{"text": "fine"}}\n{row}', "a.jsonl, row 2: no string in")
            for row in ('{"txt": "a"}', '{"text": null}', '["text"]', "null")
        ),
    ],
    ids=range(12),
)
def test_a_table_that_breaks_off_is_named_with_the_place(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    write(tmp_path, {name: content})

    assert complaint(tmp_path).replace(f"{tmp_path}/", "").startswith(message)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.csv.gz"])
def test_a_table_is_read_row_by_row(tmp_path: Path, name: str) -> None:
    row = "text " * 200
    lines = [json.dumps({"text": row})] * 20_000
    data = "\n".join(["text", *[row] * 20_000] if ".csv" in name else lines).encode()
    write(tmp_path, {name: gzip.compress(data) if name.endswith(".gz") else data})

    tracemalloc.start()
    num_rows = sum(1 for _ in read_local_files(find_files(tmp_path), Inventory()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert num_rows == 20_000
    assert peak < 1_000_000 < len(data) / 10


@pytest.mark.parametrize(
    ("name", "kind", "advice"),
    [("a.json", "JSON value", "jq -c '.[]'"), ("a.txt", "text", "split -C 1G")],
)
def test_a_file_that_is_too_large_to_be_read_at_once_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, advice: str
) -> None:
    monkeypatch.setattr(tables, "MAX_JSON_BYTES", 100)
    monkeypatch.setattr(local_files, "MAX_TEXT_BYTES", 100)
    write(tmp_path, {name: json.dumps(["text"] * 100)})

    message = complaint(tmp_path)

    assert message.startswith(f"{tmp_path / name} is one {kind} of more than 100")
    assert advice in message


def test_a_large_binary_file_is_not_read_and_a_pipe_not_waited_for(
    tmp_path: Path,
) -> None:
    with (tmp_path / "film.mkv").open("wb") as file:
        file.truncate(10**12)
    os.mkfifo(tmp_path / "pipe.txt")

    assert taken(tmp_path) == ({}, {"binary": ["film.mkv"], "not_a_file": ["pipe.txt"]})


TOO_LATE = pa.array([2**62], pa.timestamp("us"))
CONTENT = os.urandom(100_000).hex().encode()
PARQUET = parquet({"text": [str(number) for number in range(5_000)]})
WHOLE = {
    "a.txt.bz2": bz2.compress(CONTENT),
    "a.txt.gz": gzip.compress(CONTENT),
    "a.txt.xz": lzma.compress(CONTENT),
    "a.txt.zst": zstd(CONTENT),
    "a.parquet": PARQUET,
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, truncated(content)) for name, content in WHOLE.items()),
        *((name, b"plain text") for name in WHOLE),
        ("a.parquet", without_data(PARQUET)),
        ("a.parquet", b""),
        # Half a character, a date too late, two columns `text`, a gigantic line.
        ("a.parquet", parquet({"text": not_utf8(b"\xed\xa0").dictionary_encode()})),
        ("a.parquet", parquet({"text": ["a"], "group": TOO_LATE})),
        ("a.parquet", parquet(pa.Table.from_arrays([["a"], ["b"]], ["text", "text"]))),
        ("a.jsonl", b"x" * 20_000_000),
    ],
    ids=range(16),
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    write(tmp_path, {name: content})

    message = complaint(tmp_path)

    assert message.removeprefix("cannot read ").startswith(str(tmp_path / name))
    assert "\n" not in message
    assert len(message) < 300


def links(folder: Path, targets: dict[str, str]) -> None:
    for name, target in targets.items():
        (folder / name).symlink_to(target)


def test_links_are_followed(tmp_path: Path) -> None:
    """Also into a hidden folder: tools for large files (DVC, git-annex) need it."""
    write(tmp_path / ".store", {"book/1.txt": "one", "book/more/2.txt": "two"})
    folder = write(tmp_path / "texts", {"c.txt": "three", "B.txt": "four"})
    links(folder, {"b": "../.store/book", "a.txt": "../.store/book/1.txt"})

    inventory = Inventory()
    documents = read_local_files(find_files(folder), inventory)
    found = [(document.id, document.group) for document in documents]

    # In the order of their names, not of the file system.
    assert found == [
        *[("B.txt", "B.txt"), ("a.txt", "a.txt"), ("b/1.txt", "b")],
        *[("b/more/2.txt", "b"), ("c.txt", "c.txt")],
    ]
    assert inventory.followed == ["b"]


@pytest.mark.parametrize(
    "links_to",
    [
        *({"texts/again": to} for to in (".", "..", "a", "nowhere", "again")),
        {"texts/b": "../elsewhere", "elsewhere/again": "../texts"},
        {"texts/b": "../elsewhere", "elsewhere/again": "."},
        {"texts/b": "../elsewhere", "elsewhere/again": "deep"},
        {"texts/b": "../elsewhere/deep", "elsewhere/deep/again": ".."},
    ],
    ids=str,
)
def test_no_link_leads_round_in_a_circle(
    tmp_path: Path, links_to: dict[str, str]
) -> None:
    """Each is named, and all that there is, is read once."""
    write(tmp_path, {"texts/a/1.txt": "one", "elsewhere/deep/2.txt": "two"})
    links(tmp_path, links_to)

    texts, left_out = taken(tmp_path / "texts")

    assert [*texts.values()] == ["one", "two"][: len(links_to)]
    (name,) = left_out.pop("not_a_file")
    assert name.endswith("again")
    assert not left_out


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is open to root")
@pytest.mark.parametrize("corpus", ["texts", "texts/closed", "texts/closed/deep"])
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, corpus: str) -> None:
    """Else the corpus would be smaller, without a word."""
    write(tmp_path, {"texts/closed/deep/a.txt": "text"})
    closed = tmp_path / "texts" / "closed"
    closed.chmod(0)
    try:
        message = complaint(tmp_path / corpus)
    finally:
        closed.chmod(0o700)

    named = max(tmp_path / corpus, closed)
    assert message == f"cannot read {named}: Permission denied"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    message = complaint(tmp_path / "txets")

    assert f"{tmp_path}/txets" in message
    assert "corpora.*.folder in params.yaml" in message


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has UTF-8 names alone")
def test_a_file_whose_name_is_not_utf8_is_read_all_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path / "texts", {os.fsdecode(b"caf\xe9.txt"): "inside"})

    write_documents(read(folder), tmp_path)

    assert list(read_texts(tmp_path, THE_ONLY_SHARD)) == [["inside"]]
