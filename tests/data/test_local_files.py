"""The user's own files: each kind is read, or left out by name."""

import bz2
import gzip
import json
import lzma
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults.damaged import truncated, without_data
from toygpt.data import local_files, tables
from toygpt.data.corpus import RawDocument, clean, read_texts, write_documents
from toygpt.data.inventory import Inventory, Reason
from toygpt.data.local_files import read_local_files
from toygpt.pipeline.errors import InputError


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Write files under their names, making folders as needed."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def write_parquet(path: Path, columns: dict[str, object]) -> None:
    pq.write_table(pa.table(columns), path)


def read(folder: Path) -> list[RawDocument]:
    """Return the documents in a folder."""
    return list(read_local_files(folder, Inventory()))


def taken(folder: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the texts of a folder by their names, and what is left out, by reason."""
    inventory = Inventory()
    documents = clean(read_local_files(folder, inventory), inventory)
    texts = {document.id: document.text for document in documents}
    return texts, {reason.key: names for reason, names in inventory.names.items()}


def complaint(folder: Path) -> str:
    """Return what the user reads when a folder cannot be used."""
    with pytest.raises(InputError) as caught:
        read(folder)
    return str(caught.value)


def zstd(content: bytes) -> bytes:
    compressed = pa.compress(content, codec="zstd")
    return bytes(compressed)


ROWS = [{"text": "grün"}, {"text": "gelb", "stars": 5}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
CSV = 'id,text\n1,grün\n2,"""gelb""\n, rot"\n'

READ: dict[str, tuple[str | bytes, list[str]]] = {
    # Text under any name, in UTF-8 or what a byte order mark says.
    "plain.txt": ("grün", ["grün"]),
    "marked.MD": ("# grün", ["# grün"]),
    "code.c": ("int main;", ["int main;"]),
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
    "book.epub": ("", Reason.NO_READER, ""),
    "a.parquet.gz": (
        gzip.compress(b"PAR1"),
        Reason.NO_READER,
        "a compressed Parquet file: decompress it",
    ),
    "letter.docx": ("", Reason.NO_READER, ""),
    "paper.pdf": ("%PDF-1.4", Reason.NO_READER, ""),
    "numbers.csv": ("a;b\n1;2\n", Reason.NO_TEXT_COLUMN, "has a, b"),
    "wide.csv": ("a,b,c,d,e,f\n", Reason.NO_TEXT_COLUMN, "has a, b, c, d, e, …"),
    "package.json": ('{\n"name": "a"\n}', Reason.NO_TEXT_COLUMN, "has name"),
    "vocab.json": ('{"a": 0, "text": 1}\n', Reason.NO_TEXT_COLUMN, "has a, text"),
    "chart.json": ('{\n"text": {}\n}', Reason.NO_TEXT_COLUMN, "has text"),
    "comments.json": ("{ // so\n}", Reason.NO_TEXT_COLUMN, "is not JSON"),
    "numbers.json": ("[1, 2]", Reason.NO_TEXT_COLUMN, "has none"),
    "log.jsonl": ('{"step": 1}\n', Reason.NO_TEXT_COLUMN, "has step"),
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


def test_a_parquet_file_without_text_is_named_with_its_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"txt": ["a"], "id": [1]})
    write_parquet(tmp_path / "b.parquet", {"text": [7]})

    texts, left_out = taken(tmp_path)

    assert not texts
    assert left_out == {
        "no_text_column": ["a.parquet (has txt, id)", "b.parquet (has text)"]
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text\ngrün\nrot\n"),
        ("a.jsonl", '{"text": "grün"}\n{"text": "rot"}\n'),
        ("a.json", '{"text": "grün"}\n{"text": "rot"}\n'),
    ],
)
def test_rows_that_are_not_utf8_cost_themselves_alone(
    tmp_path: Path, name: str, content: str
) -> None:
    """A table that some program wrote in Latin-1."""
    write(tmp_path, {name: content.encode("latin-1")})

    assert taken(tmp_path) == ({f"{name}:2": "rot"}, {"not_utf8": [f"{name}:1"]})


def test_an_empty_group_of_a_csv_file_does_not_become_one(tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": "text,group\n1,\n2,book\n3,\n"})

    groups = [document.group for document in read(tmp_path)]

    assert groups == ["a.csv:1", "book", "a.csv:3"]


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ("text,id\none,1\ntwo, too,2\n", 3, "3 fields, but the first line names 2"),
        ("text\none\ntwo, too\n", 3, "must be quoted"),
        ('text,id\n"one "two" three",1\n', 2, "expected after"),
        ('text,id\n"one,1\ntwo,2\n', 3, "unexpected end of data"),
    ],
    ids=["too many", "one column", "quotes", "open quote"],
)
def test_a_csv_file_that_was_not_quoted_is_not_guessed_at(
    tmp_path: Path, content: str, line: int, reason: str
) -> None:
    """Else documents would end at their first comma, or run into each other."""
    write(tmp_path, {"a.csv": content})

    message = complaint(tmp_path)

    assert message.startswith(f"cannot read {tmp_path / 'a.csv'}, line {line}: ")
    assert reason in message


def test_a_field_may_have_any_length(tmp_path: Path) -> None:
    """Python's reader of CSV takes 131,072 characters by default."""
    write(tmp_path, {"a.csv": f'text\n"{"a, " * 100_000}"\n'})

    (document,) = read(tmp_path)

    assert document.content == b"a, " * 100_000


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.csv.gz"])
def test_a_table_is_read_row_by_row(tmp_path: Path, name: str) -> None:
    row = "text " * 200
    if ".csv" in name:
        content = "text\n" + f"{row}\n" * 20_000
    else:
        content = (json.dumps({"text": row}) + "\n") * 20_000
    data = content.encode()
    write(tmp_path, {name: gzip.compress(data) if name.endswith(".gz") else data})

    tracemalloc.start()
    num_rows = sum(1 for _ in read_local_files(tmp_path, Inventory()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert num_rows == 20_000
    assert peak < 1_000_000 < len(data) / 10


def test_json_that_is_too_large_to_be_parsed_as_a_whole_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_JSON_BYTES", 100)
    write(tmp_path, {"a.json": json.dumps(["text"] * 100)})

    message = complaint(tmp_path)

    assert message.startswith(f"{tmp_path / 'a.json'} is one JSON value of more than")
    assert "jq -c '.[]'" in message


def test_a_text_that_is_too_long_for_a_document_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_files, "MAX_TEXT_BYTES", 100)
    write(tmp_path, {"a.txt": "a" * 101})

    message = complaint(tmp_path)

    assert message.startswith(f"{tmp_path / 'a.txt'} is one text of more than 100")
    assert "split -C 1G" in message


def test_a_large_binary_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "film.mkv").open("wb") as file:
        file.truncate(10**12)

    assert taken(tmp_path) == ({}, {"binary": ["film.mkv"]})


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".bz2": bz2.compress,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("damage", [truncated, lambda _: b"plain text"])
def test_a_damaged_compressed_file_is_named(
    tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    content = COMPRESS[suffix](os.urandom(100_000).hex().encode())
    write(tmp_path, {f"a.txt{suffix}": damage(content)})

    message = complaint(tmp_path)

    assert message.startswith(f"cannot read {tmp_path / 'a.txt'}{suffix}: ")
    assert "\n" not in message


def links(folder: Path, targets: dict[str, str]) -> None:
    """Make symbolic links under their names."""
    for name, target in targets.items():
        (folder / name).symlink_to(target)


def test_links_are_followed(tmp_path: Path) -> None:
    """As Python before 3.13 does not by itself."""
    write(tmp_path / "elsewhere", {"book/1.txt": "one", "book/more/2.txt": "two"})
    folder = write(tmp_path / "texts", {"c.txt": "three"})
    links(folder, {"b": "../elsewhere/book", "a.txt": "../elsewhere/book/1.txt"})

    inventory = Inventory()
    found = [(d.id, d.group) for d in read_local_files(folder, inventory)]

    assert found == [
        ("a.txt", "a.txt"),
        ("b/1.txt", "b"),
        ("b/more/2.txt", "b"),
        ("c.txt", "c.txt"),
    ]
    assert inventory.followed == ["b"]


@pytest.mark.parametrize(
    "targets",
    [
        {"texts/again": "."},
        {"texts/again": ".."},
        {"texts/again": "a"},
        {"texts/again": "nowhere"},
        {"texts/again": "again"},
        {"texts/b": "../elsewhere", "elsewhere/again": "../texts"},
        {"texts/b": "../elsewhere", "elsewhere/again": "."},
        {"texts/b": "../elsewhere", "elsewhere/again": "deep"},
        {"texts/b": "../elsewhere/deep", "elsewhere/deep/again": ".."},
    ],
    ids=lambda targets: " ".join(f"{name}>{to}" for name, to in targets.items()),
)
def test_no_link_leads_round_in_a_circle(
    tmp_path: Path, targets: dict[str, str]
) -> None:
    """Each is named, and all that there is, is read once."""
    write(tmp_path, {"texts/a/1.txt": "one", "elsewhere/deep/2.txt": "two"})
    links(tmp_path, targets)

    texts, left_out = taken(tmp_path / "texts")

    expected = ["one", "two"] if "texts/b" in targets else ["one"]
    assert list(texts.values()) == expected
    (name,) = left_out.pop("not_a_file")
    assert name.endswith("again")
    assert not left_out


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")

    assert taken(tmp_path) == ({}, {"not_a_file": ["pipe.txt"]})


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


def test_local_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Not in that of the file system, which depends on who wrote them when."""
    names = ["b/2.txt", "a.txt", "b/10.txt", "c.txt", "b/1.txt", "B.txt"]
    folder = write(tmp_path, {name: name for name in names})

    found = [document.id for document in read(folder)]

    assert found == ["B.txt", "a.txt", "b/1.txt", "b/10.txt", "b/2.txt", "c.txt"]


def test_rows_are_groups_of_their_own_unless_they_name_one(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "a.jsonl": "\n".join(
                json.dumps(row)
                for row in (
                    {"text": "1"},
                    {"text": "2", "group": "book"},
                    {"text": "3", "group": 7},
                )
            )
        },
    )
    write_parquet(folder / "b.parquet", {"text": ["4", "5"], "group": ["book", "x"]})

    groups = [document.group for document in read(folder)]

    assert groups == ["a.jsonl:1", "book", "7", "book", "x"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_without_a_group_do_not_become_one(tmp_path: Path, kind: str) -> None:
    """A split would move all of them together, however many they are."""
    rows = [{"text": "1", "group": None}, {"text": "2", "group": None}]
    if kind == "jsonl":
        write(tmp_path, {"a.jsonl": "\n".join(json.dumps(row) for row in rows)})
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")

    groups = [document.group for document in read(tmp_path)]

    assert groups == [f"a.{kind}:1", f"a.{kind}:2"]


def test_blank_lines_of_a_jsonl_file_are_skipped(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.jsonl": '\n{"text": "1"}\r\n  \n{"text": "2"}'})

    contents = [document.content for document in read(folder)]

    assert contents == [b"1", b"2"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    message = complaint(tmp_path / "txets")

    assert str(tmp_path / "txets") in message
    assert "corpora.*.folder in params.yaml" in message


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "cut off',
        b"plain text",
        b"[" * 100_000,
        b"9" * 10_000,
    ],
    ids=["cut off", "plain", "deep", "long number"],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: bytes) -> None:
    folder = write(tmp_path, {"a.jsonl": b'{"text": "fine"}\n\n' + line + b"\n"})

    message = complaint(folder)

    assert message.startswith(f"{folder / 'a.jsonl'}, line 3,")


@pytest.mark.parametrize(
    "row", ["{}", '{"txt": "a"}', '{"text": null}', '{"text": 7}', '["text"]', "null"]
)
def test_a_row_without_text_is_named_with_its_number(tmp_path: Path, row: str) -> None:
    folder = write(tmp_path, {"a.jsonl": '{"text": "fine"}\n' + row})

    message = complaint(folder)

    assert message.startswith(f"{folder / 'a.jsonl'}, row 2:")
    assert "`text`" in message


@pytest.mark.parametrize(
    "damage", [truncated, without_data, lambda _: b"", lambda _: b"plain text"]
)
def test_a_damaged_parquet_file_is_named(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, {"text": [str(number) for number in range(5_000)]})
    path.write_bytes(damage(path.read_bytes()))

    message = complaint(tmp_path)

    assert message.startswith(f"cannot read {path}: ")


def test_parquet_text_that_is_not_utf8_does_not_stop_the_others(
    tmp_path: Path,
) -> None:
    """Parquet promises UTF-8; not every program that writes it keeps the promise."""
    texts = pa.array([b"fine", b"\xff\xfe", b"too"], pa.binary()).view(pa.string())
    write_parquet(tmp_path / "a.parquet", {"text": texts})

    texts, left_out = taken(tmp_path)

    assert texts == {"a.parquet:1": "fine", "a.parquet:3": "too"}
    assert left_out == {"not_utf8": ["a.parquet:2"]}


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has UTF-8 names alone")
def test_a_file_whose_name_is_not_utf8_is_read_all_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path / "texts", {os.fsdecode(b"caf\xe9.txt"): "inside"})

    write_documents(clean(read(folder), Inventory()), tmp_path)

    assert list(read_texts(tmp_path)) == [["inside"]]


def test_half_a_character_in_a_jsonl_file_is_not_utf8(tmp_path: Path) -> None:
    r"""JSON can say `\ud83d` alone: half an emoji, which no UTF-8 can hold."""
    folder = write(
        tmp_path, {"a.jsonl": '{"text": "\\ud83d"}\n{"text": "\\ud83d\\ude00"}\n'}
    )

    texts, left_out = taken(folder)

    assert texts == {"a.jsonl:2": "\N{GRINNING FACE}"}
    assert left_out == {"not_utf8": ["a.jsonl:1"]}


def test_a_link_into_a_hidden_folder_is_followed(tmp_path: Path) -> None:
    """Tools that keep large files (DVC, git-annex) make such links."""
    write(tmp_path, {".store/1/a.txt": "text"})
    links(tmp_path, {"book": ".store/1"})

    assert taken(tmp_path)[0] == {"book/a.txt": "text"}
