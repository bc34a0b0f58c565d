"""Documents: found in stable order, cleaned, written, and read again."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.faults.damaged import truncated, without_data
from toygpt.data.corpus import (
    BYTES_PER_ROW_GROUP,
    DOCUMENTS_FILE,
    Document,
    RawDocument,
    clean,
    read_groups,
    read_standard_library,
    read_texts,
    write_documents,
)
from toygpt.data.inventory import Inventory
from toygpt.pipeline.errors import InputError


@pytest.fixture(scope="module")
def library() -> list[RawDocument]:
    """Return what a user gets who has no texts of their own."""
    return list(read_standard_library())


def raw(*contents: bytes) -> list[RawDocument]:
    """Return documents as they were found, each a group of its own."""
    return [
        RawDocument(str(number), str(number), content)
        for number, content in enumerate(contents)
    ]


def cleaned(documents: Iterable[RawDocument]) -> tuple[list[str], dict[str, int]]:
    """Return the texts that pass, and how much was left out, by reason."""
    inventory = Inventory()
    texts = [document.text for document in clean(documents, inventory)]
    return texts, {reason.key: n for reason, n in inventory.left_out.items()}


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


def test_texts_that_differ_in_a_space_are_not_duplicates() -> None:
    texts, left_out = cleaned(raw(b"text", b"text\n", b" text"))

    assert texts == ["text", "text\n", " text"]
    assert left_out == {}


def test_the_mark_at_the_start_of_a_file_is_not_text() -> None:
    """Some editors begin UTF-8 files with a byte order mark."""
    texts, left_out = cleaned(raw(b"\xef\xbb\xbftext", b"text", b"\xef\xbb\xbf"))

    assert texts == ["text"]
    assert left_out == {"duplicate": 1, "empty": 1}


def test_what_passes_keeps_its_name_and_its_group() -> None:
    found = [RawDocument("a/1.txt", "a", b"text")]

    documents = list(clean(found, Inventory()))

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
