"""Documents: found in stable order, cleaned, written, and read again."""

from collections.abc import Callable
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
    count_bytes,
    read_groups,
    read_standard_library,
    read_texts,
    up_to,
    write_documents,
)
from toygpt.data.inventory import Inventory
from toygpt.pipeline.errors import InputError


def test_the_standard_library_is_its_own_source_text_and_nothing_else() -> None:
    """Its own codecs stay; the tables of character sets beside them do not."""
    library = list(read_standard_library())
    groups = {document.id: document.group for document in library}
    names = groups.keys()
    foreign = {"site-packages", "dist-packages", "ensurepip", "__pycache__"}
    foreign |= {"test", "tests", "idle_test"}

    assert {"abc.py", "json/decoder.py", "asyncio/tasks.py", "tokenize.py"} <= names
    assert sum(len(document.content) for document in library) > 5_000_000
    assert not [name for name in names if foreign.intersection(Path(name).parts)]
    assert "encodings/utf_8.py" in names
    assert not names & {"encodings/cp1252.py", "pydoc_data/topics.py"}
    assert not any("_sysconfigdata" in name for name in names)
    assert groups["json/decoder.py"] == groups["json/__init__.py"] == "json"
    assert groups["abc.py"] == "abc"
    assert len(groups) == len(library)
    assert [*groups] == sorted(groups, key=lambda name: Path(name).parts)


@pytest.mark.parametrize(
    ("contents", "texts", "left_out"),
    [
        (
            [b"1", b"caf\xe9", b"", b" \n\t", b"1", b"\xff\xfef\0", b"2", b"1"],
            ["1", "2"],
            {"not_utf8": 2, "empty": 2, "duplicate": 2},
        ),
        # Some editors begin UTF-8 files with a byte order mark: it is not text.
        (
            [b"\xef\xbb\xbftext", b"text", b"\xef\xbb\xbf"],
            ["text"],
            {"duplicate": 1, "empty": 1},
        ),
    ],
)
def test_documents_without_new_text_are_left_out_and_counted(
    contents: list[bytes], texts: list[str], left_out: dict[str, int]
) -> None:
    inventory = Inventory()
    documents = [RawDocument("", "", content) for content in contents]

    found = [document.text for document in clean(documents, inventory)]

    assert found == texts
    assert {reason.key: n for reason, n in inventory.left_out.items()} == left_out


@pytest.mark.parametrize("num_documents", [0, 1_000])
def test_documents_are_read_as_they_were_written(
    tmp_path: Path, num_documents: int
) -> None:
    documents = [
        Document(f"id {number}", f"group {number % 7}", f"text {number}\0\r\né")
        for number in range(num_documents)
    ]

    counts = write_documents(documents, tmp_path)

    assert counts == (num_documents, count_bytes(tmp_path))
    assert count_bytes(tmp_path) == sum(len(d.text.encode()) for d in documents)
    texts = [text for texts in read_texts(tmp_path) for text in texts]
    assert texts == [document.text for document in documents]
    assert list(read_groups(tmp_path)) == [document.group for document in documents]
    path = tmp_path / DOCUMENTS_FILE
    assert pq.read_schema(path).names == ["id", "group", "text"]
    # The same documents make the same file: else no later result could be reused.
    before = path.read_bytes()
    write_documents(documents, tmp_path)
    assert path.read_bytes() == before


def test_documents_are_written_before_memory_fills_up(tmp_path: Path) -> None:
    half = "a" * (BYTES_PER_ROW_GROUP // 2)

    write_documents((Document(str(n), "group", half) for n in range(5)), tmp_path)

    with pq.ParquetFile(tmp_path / DOCUMENTS_FILE) as file:
        metadata = file.metadata
    sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        without_data,
        # Its last bytes promise a description that is not there.
        lambda content: content[:-200] + b"\xff" * 192 + content[-8:],
        lambda _: b"",
        None,
    ],
)
def test_missing_or_damaged_documents_name_the_stage_that_makes_them(
    tmp_path: Path, damage: Callable[[bytes], bytes] | None
) -> None:
    path = tmp_path / DOCUMENTS_FILE
    reason, command = "is missing: ", "dvc repro download"
    if damage:
        write_documents((Document(str(n), "g", str(n)) for n in range(5_000)), tmp_path)
        path.write_bytes(damage(path.read_bytes()))
        reason, command = "is damaged (", "dvc repro --force --single-item download"

    with pytest.raises(InputError) as caught:
        list(read_texts(tmp_path))

    assert str(caught.value).startswith(f"{path} {reason}")
    assert str(caught.value).endswith(f"run `{command}`")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, "abcd"),
        ({"max_bytes": 6}, "abc"),
        ({"max_bytes": 5}, "ab"),
        ({"max_documents": 1, "max_bytes": 5}, "a"),
        ({"max_bytes": 0}, ""),
    ],
)
def test_a_limit_ends_the_corpus_before_it_is_exceeded(
    limits: dict[str, int], expected: str
) -> None:
    """The bytes are those of UTF-8; no document is read that cannot come in."""
    documents = iter([Document(n, n, "é") for n in "abcd"])

    found = up_to(documents, **{"max_documents": None, "max_bytes": None} | limits)

    assert "".join(document.id for document in found) == expected
    if "max_documents" in limits:
        assert next(documents).id == "abcd"[len(expected)]
