"""Documents: found in stable order, and cleaned."""

import os
from pathlib import Path

import pytest

from toygpt.data import corpus
from toygpt.data.chunks import Read
from toygpt.data.corpus import (
    RawDocument,
    clean,
    find_standard_library,
    found_file,
    read_standard_library,
)
from toygpt.data.inventory import Inventory
from toygpt.data.local_files import read_local_files
from toygpt.pipeline.errors import InputError


def test_the_standard_library_is_its_own_source_text_and_nothing_else() -> None:
    """Its own codecs stay; the tables of character sets beside them do not."""
    library = list(read_standard_library(find_standard_library(), Inventory()))
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


@pytest.mark.parametrize("read", [read_local_files, read_standard_library])
@pytest.mark.parametrize("content", ["longer", "TEXT", "\0"])
def test_a_file_that_was_changed_after_it_was_found_is_refused(
    read: Read, content: str, tmp_path: Path
) -> None:
    """By its size or its time, and if it is left out by now: it was not in the key."""
    path = tmp_path / "a.py"
    path.write_text("text")
    os.utime(path, (0, 0))
    file = found_file("a.py", path)
    assert [it.content for it in read([file], Inventory())] == [b"text"]
    path.write_text(content)

    with pytest.raises(InputError, match=f"^{path} was changed while it was read: run"):
        list(read([file], Inventory()))


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

    found = [it.text for it, _ in clean(documents, inventory)]

    assert found == texts
    assert {reason.key: n for reason, n in inventory.left_out.items()} == left_out


def test_a_text_too_long_for_a_page_of_parquet_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(corpus, "MAX_DOCUMENT_BYTES", 3)
    inventory = Inventory()
    documents = [RawDocument(text, "", text.encode()) for text in ("abc", "äb", "äbc")]

    assert [it.text for it, _ in clean(documents, inventory)] == ["abc", "äb"]
    (line,) = inventory.advice()
    assert line.startswith("of more than 2 GB of text: äbc; cut it: split ")
