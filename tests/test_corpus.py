"""Documents: found in stable order, cleaned, written, and read again."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toygpt.data.corpus import (
    BYTES_PER_ROW_GROUP,
    DOCUMENTS_FILE,
    Document,
    RawDocument,
    clean,
    read_groups,
    read_local_files,
    read_standard_library,
    read_texts,
    write_documents,
)
from toygpt.errors import InputError


@pytest.fixture(scope="module")
def library() -> list[RawDocument]:
    """Return what a user gets who has no texts of their own."""
    return list(read_standard_library())


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Write files under their names, making folders as needed."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def write_parquet(path: Path, columns: dict[str, object]) -> None:
    pq.write_table(pa.table(columns), path)


def raw(*contents: bytes) -> list[RawDocument]:
    """Return documents as they were found, each a group of its own."""
    return [
        RawDocument(str(number), str(number), content)
        for number, content in enumerate(contents)
    ]


def cleaned(documents: Iterable[RawDocument]) -> tuple[list[str], dict[str, int]]:
    """Return the texts that pass, and what was left out."""
    left_out: Counter[str] = Counter()
    texts = [document.text for document in clean(documents, left_out)]
    return texts, dict(left_out)


def complaint(folder: Path) -> str:
    """Return what the user reads when a folder cannot be used."""
    with pytest.raises(InputError) as caught:
        list(read_local_files(folder))
    return str(caught.value)


def test_the_standard_library_is_there(library: list[RawDocument]) -> None:
    names = {document.id for document in library}

    assert {"abc.py", "json/decoder.py", "asyncio/tasks.py", "tokenize.py"} <= names
    assert sum(len(document.content) for document in library) > 5_000_000


def test_the_standard_library_holds_nothing_of_other_projects(
    library: list[RawDocument],
) -> None:
    """Else the corpus would change with every package that a user installs."""
    foreign = {"site-packages", "dist-packages", "ensurepip", "__pycache__"}

    found = [d.id for d in library if foreign.intersection(Path(d.id).parts)]

    assert not found


def test_the_standard_library_holds_no_tests(library: list[RawDocument]) -> None:
    folders = {"test", "tests", "idle_test"}

    found = [d.id for d in library if folders.intersection(Path(d.id).parts)]

    assert not found


def test_the_standard_library_holds_nothing_that_programs_wrote(
    library: list[RawDocument],
) -> None:
    """Its own codecs stay; the tables of character sets beside them do not."""
    names = {document.id for document in library}

    assert "encodings/utf_8.py" in names
    assert "encodings/cp1252.py" not in names
    assert "pydoc_data/topics.py" not in names
    assert not any("_sysconfigdata" in name for name in names)


def test_a_package_is_one_group(library: list[RawDocument]) -> None:
    groups = {document.id: document.group for document in library}

    assert groups["json/decoder.py"] == groups["json/__init__.py"] == "json"
    assert groups["abc.py"] == "abc"


def test_the_standard_library_comes_in_the_same_order_again(
    library: list[RawDocument],
) -> None:
    names = [document.id for document in library]

    again = [document.id for document in read_standard_library()]

    assert again == names
    assert len(set(names)) == len(names)
    assert names == sorted(names, key=lambda name: Path(name).parts)


def test_each_kind_of_file_is_read(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "a.txt": "plain",
            "b.MD": "# marked",
            "c.py": "pass",
            "d.jsonl": '{"text": "first"}\n{"text": "second", "stars": 5}\n',
            "notes.docx": "not read",
            "README": "not read",
        },
    )
    write_parquet(folder / "e.parquet", {"text": ["third", "fourth"], "stars": [1, 2]})

    found = {d.id: d.content.decode() for d in read_local_files(folder)}

    assert found == {
        "a.txt": "plain",
        "b.MD": "# marked",
        "c.py": "pass",
        "d.jsonl:1": "first",
        "d.jsonl:2": "second",
        "e.parquet:1": "third",
        "e.parquet:2": "fourth",
    }


def test_local_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Not in that of the file system, which depends on who wrote them when."""
    names = ["b/2.txt", "a.txt", "b/10.txt", "c.txt", "b/1.txt", "B.txt"]
    folder = write(tmp_path, {name: name for name in names})

    found = [document.id for document in read_local_files(folder)]

    assert found == ["B.txt", "a.txt", "b/1.txt", "b/10.txt", "b/2.txt", "c.txt"]


def test_hidden_files_are_skipped(tmp_path: Path) -> None:
    folder = write(
        tmp_path / ".hidden home" / "texts",
        {
            "seen.txt": "seen",
            ".secret.txt": "hidden",
            ".git/config.txt": "hidden",
            "deep/.cache/a.txt": "hidden",
        },
    )

    found = [document.id for document in read_local_files(folder)]

    assert found == ["seen.txt"]


def test_a_folder_named_like_a_text_is_no_text(tmp_path: Path) -> None:
    folder = write(tmp_path, {"old.txt/a.txt": "inside"})

    found = [document.id for document in read_local_files(folder)]

    assert found == ["old.txt/a.txt"]


def test_files_of_one_folder_are_one_group(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {"book/1.txt": "a", "book/more/2.txt": "b", "other/1.txt": "c", "d.txt": "d"},
    )

    groups = {document.id: document.group for document in read_local_files(folder)}

    assert groups == {
        "book/1.txt": "book",
        "book/more/2.txt": "book",
        "other/1.txt": "other",
        "d.txt": "d.txt",
    }


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

    groups = [document.group for document in read_local_files(folder)]

    assert groups == ["a.jsonl:1", "book", "7", "book", "x"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_without_a_group_do_not_become_one(tmp_path: Path, kind: str) -> None:
    """A split would move all of them together, however many they are."""
    rows = [{"text": "1", "group": None}, {"text": "2", "group": None}]
    if kind == "jsonl":
        write(tmp_path, {"a.jsonl": "\n".join(json.dumps(row) for row in rows)})
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")

    groups = [document.group for document in read_local_files(tmp_path)]

    assert groups == [f"a.{kind}:1", f"a.{kind}:2"]


def test_blank_lines_of_a_jsonl_file_are_skipped(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.jsonl": '\n{"text": "1"}\r\n  \n{"text": "2"}'})

    contents = [document.content for document in read_local_files(folder)]

    assert contents == [b"1", b"2"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    message = complaint(tmp_path / "txets")

    assert str(tmp_path / "txets") in message
    assert "corpora.*.folder in params.yaml" in message


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = write(tmp_path, {"a.txt": "text"}) / "a.txt"

    message = complaint(path)

    assert "there is no folder" in message


@pytest.mark.parametrize("name", [None, "letter.docx", ".hidden.txt"])
def test_a_folder_without_a_readable_file_says_what_can_be_read(
    tmp_path: Path, name: str | None
) -> None:
    folder = write(tmp_path, {name: "unread"} if name else {})

    message = complaint(folder)

    assert str(folder) in message
    assert ".jsonl, .md, .parquet, .py, .txt" in message


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "cut off',
        b"plain text",
        b'{"text": "\xff"}',
        b"[" * 100_000,
        b"9" * 10_000,
    ],
    ids=["cut off", "plain", "not UTF-8", "deep", "long number"],
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
    "columns",
    [{"txt": ["a"]}, {"text": [None]}, {"text": [7]}],
    ids=["no text", "null", "number"],
)
def test_a_parquet_file_without_text_is_named(
    tmp_path: Path, columns: dict[str, object]
) -> None:
    write_parquet(tmp_path / "a.parquet", columns)

    message = complaint(tmp_path)

    assert message.startswith(f"{tmp_path / 'a.parquet'}, row 1:")


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def without_data(content: bytes) -> bytes:
    """Return a file that looks whole from its end, where readers look first."""
    middle = len(content) // 2
    return content[:4] + bytes(middle - 4) + content[middle:]


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

    kept, left_out = cleaned(read_local_files(tmp_path))

    assert kept == ["fine", "too"]
    assert left_out == {"not_utf8": 1}


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has UTF-8 names alone")
def test_a_file_whose_name_is_not_utf8_is_read_all_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path / "texts", {os.fsdecode(b"caf\xe9.txt"): "inside"})

    write_documents(clean(read_local_files(folder), Counter()), tmp_path)

    assert list(read_texts(tmp_path)) == [["inside"]]


def test_a_group_that_is_not_unicode_is_a_group_all_the_same(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "texts", {"a.jsonl": '{"text": "inside", "group": "\\ud800"}'}
    )

    write_documents(clean(read_local_files(folder), Counter()), tmp_path)

    assert list(read_texts(tmp_path)) == [["inside"]]


def test_what_holds_no_new_text_is_counted_and_left_out() -> None:
    documents = raw(
        b"first",
        b"caf\xe9",
        b"",
        b" \n\t",
        b"first",
        b"\xff\xfef\x00i\x00",
        b"second",
        b"first",
    )

    texts, left_out = cleaned(documents)

    assert texts == ["first", "second"]
    assert left_out == {"not_utf8": 2, "empty": 2, "duplicate": 2}


def test_texts_that_differ_in_a_space_are_no_duplicates() -> None:
    texts, left_out = cleaned(raw(b"text", b"text\n", b" text"))

    assert texts == ["text", "text\n", " text"]
    assert left_out == {}


def test_the_mark_at_the_start_of_a_file_is_no_text() -> None:
    """Some editors begin UTF-8 files with a byte order mark."""
    texts, left_out = cleaned(raw(b"\xef\xbb\xbftext", b"text", b"\xef\xbb\xbf"))

    assert texts == ["text"]
    assert left_out == {"duplicate": 1, "empty": 1}


def test_half_a_character_in_a_jsonl_file_is_not_utf8(tmp_path: Path) -> None:
    r"""JSON can say `\ud83d` alone: half an emoji, which no UTF-8 can hold."""
    folder = write(
        tmp_path, {"a.jsonl": '{"text": "\\ud83d"}\n{"text": "\\ud83d\\ude00"}\n'}
    )

    texts, left_out = cleaned(read_local_files(folder))

    assert texts == ["\N{GRINNING FACE}"]
    assert left_out == {"not_utf8": 1}


def test_what_passes_keeps_its_name_and_its_group() -> None:
    found = [RawDocument("a/1.txt", "a", b"text")]

    documents = list(clean(found, Counter()))

    assert documents == [Document("a/1.txt", "a", "text")]


def test_documents_are_read_as_they_were_written(tmp_path: Path) -> None:
    documents = [
        Document(f"id {number}", f"group {number % 7}", f"text {number}\0\r\né")
        for number in range(1_000)
    ]

    write_documents(documents, tmp_path)

    texts = [text for texts in read_texts(tmp_path) for text in texts]
    assert texts == [document.text for document in documents]
    assert list(read_groups(tmp_path)) == [document.group for document in documents]
    assert pq.read_table(tmp_path / DOCUMENTS_FILE).column_names == [
        "id",
        "group",
        "text",
    ]


def test_the_same_documents_make_the_same_file(tmp_path: Path) -> None:
    """Else nothing that is made from them could be reused."""
    documents = [Document(str(number), "group", "text") for number in range(100)]
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_documents(documents, tmp_path / name)

    files = [(tmp_path / name / DOCUMENTS_FILE) for name in ("first", "second")]

    assert files[0].read_bytes() == files[1].read_bytes()


def test_documents_are_written_before_memory_fills_up(tmp_path: Path) -> None:
    half = "a" * (BYTES_PER_ROW_GROUP // 2)
    documents = (Document(str(number), "group", half) for number in range(5))

    write_documents(documents, tmp_path)

    with pq.ParquetFile(tmp_path / DOCUMENTS_FILE) as file:
        sizes = [
            file.metadata.row_group(number).num_rows
            for number in range(file.num_row_groups)
        ]
    assert sizes == [2, 2, 1]


def test_a_corpus_without_documents_can_be_written_and_read(tmp_path: Path) -> None:
    write_documents([], tmp_path)

    assert list(read_texts(tmp_path)) == []
    assert list(read_groups(tmp_path)) == []


def test_missing_documents_name_the_stage_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing: run `dvc repro download`"):
        next(read_texts(tmp_path))


def without_header(content: bytes) -> bytes:
    """Return a file whose last bytes promise a description that is not there."""
    return content[:-200] + b"\xff" * 192 + content[-8:]


@pytest.mark.parametrize(
    "damage", [truncated, without_data, without_header, lambda _: b""]
)
def test_damaged_documents_name_the_stage_that_makes_them(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    documents = [Document(str(number), "g", str(number)) for number in range(5_000)]
    write_documents(documents, tmp_path)
    path = tmp_path / DOCUMENTS_FILE
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(InputError, match="is damaged") as caught:
        list(read_texts(tmp_path))

    assert str(path) in str(caught.value)
    assert "dvc repro --force --single-item download" in str(caught.value)
