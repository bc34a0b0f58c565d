"""Documents on disk: cut into shards by their text alone, and read again."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.damaged import truncated, without_data
from toygpt.data import documents as documents_module
from toygpt.data.corpus import Document
from toygpt.data.documents import (
    BYTES_PER_ROW_GROUP,
    DOCUMENTS_FILE,
    corpus_digest,
    count_bytes,
    find_shards,
    read_groups,
    read_texts,
    write_documents,
)
from toygpt.data.shards import THE_ONLY_SHARD
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import sha256_of

FORCE = "run `dvc repro --force --single-item download`"


def write_texts(texts: Sequence[str], directory: Path, *, shard_bytes: int) -> None:
    directory.mkdir(exist_ok=True)
    documents = (Document(f"{n}", f"g{n}", text) for n, text in enumerate(texts))
    write_documents(documents, directory, shard_bytes=shard_bytes)


def texts_of_shards(directory: Path) -> list[list[str]]:
    return [
        [text for texts in read_texts(directory, shard) for text in texts]
        for shard in find_shards(directory)
    ]


@pytest.mark.parametrize("num_documents", [1, 1_000])
def test_documents_are_read_as_they_were_written(
    tmp_path: Path, num_documents: int
) -> None:
    documents = [
        Document(f"id {number}", f"group {number % 7}", f"text {number}\0\r\né")
        for number in range(num_documents)
    ]

    counts = write_documents(documents, tmp_path, shard_bytes=10**9)

    assert counts == (num_documents, count_bytes(tmp_path, THE_ONLY_SHARD))
    assert count_bytes(tmp_path, THE_ONLY_SHARD) == sum(
        len(d.text.encode()) for d in documents
    )
    texts = [text for texts in read_texts(tmp_path, THE_ONLY_SHARD) for text in texts]
    assert texts == [document.text for document in documents]
    assert list(read_groups(tmp_path)) == [document.group for document in documents]
    path = tmp_path / DOCUMENTS_FILE
    assert pq.read_schema(path).names == ["id", "group", "text"]
    # The same documents make the same file: else no later result could be reused.
    assert find_shards(tmp_path) == [THE_ONLY_SHARD]
    assert corpus_digest(tmp_path) == sha256_of(path)
    before = path.read_bytes()
    write_documents(documents, tmp_path, shard_bytes=10**9)
    assert path.read_bytes() == before


def test_documents_are_written_before_memory_fills_up(tmp_path: Path) -> None:
    half = "a" * (BYTES_PER_ROW_GROUP // 2)

    documents = (Document(str(n), "group", half) for n in range(5))
    write_documents(documents, tmp_path, shard_bytes=10**9)

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
        documents = (Document(str(n), "g", str(n)) for n in range(5_000))
        write_documents(documents, tmp_path, shard_bytes=10**9)
        path.write_bytes(damage(path.read_bytes()))
        reason, command = "is damaged (", "dvc repro --force --single-item download"

    with pytest.raises(InputError) as caught:
        list(read_texts(tmp_path, THE_ONLY_SHARD))

    assert str(caught.value).startswith(f"{path} {reason}")
    assert str(caught.value).endswith(f"run `{command}`")


@settings(max_examples=50)
@given(
    texts=st.lists(st.text("aé", min_size=1, max_size=5), min_size=1, max_size=12),
    shard_bytes=st.integers(1, 30),
)
def test_a_shard_is_as_large_as_it_may_be_and_no_document_is_cut(
    texts: list[str], shard_bytes: int
) -> None:
    """Its bytes are those of UTF-8. A longer document has a shard of its own."""
    with TemporaryDirectory() as folder:
        write_texts(texts, Path(folder), shard_bytes=shard_bytes)
        shards = texts_of_shards(Path(folder))
        groups = list(read_groups(Path(folder)))

    assert [text for shard in shards for text in shard] == texts
    assert groups == [f"g{number}" for number in range(len(texts))]
    sizes = [len("".join(shard).encode()) for shard in shards]
    for number, size in enumerate(sizes):
        assert size <= shard_bytes or len(shards[number]) == 1
        if number > 0:
            assert sizes[number - 1] + len(shards[number][0].encode()) > shard_bytes


def test_a_corpus_that_just_fits_has_one_file_and_the_bytes_it_always_had(
    tmp_path: Path,
) -> None:
    write_texts(["aa", "bb"], tmp_path / "fits", shard_bytes=4)
    write_texts(["aa", "bb"], tmp_path / "roomy", shard_bytes=10**9)
    write_texts(["aa", "bb"], tmp_path / "tight", shard_bytes=3)

    fits, roomy, tight = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("fits", "roomy", "tight")
    )
    assert fits == roomy
    assert list(fits) == [DOCUMENTS_FILE]
    assert sorted(tight) == [
        *("documents-00000.parquet", "documents-00001.parquet"),
        "manifest.json",
    ]
    assert corpus_digest(tmp_path / "fits") != corpus_digest(tmp_path / "tight")


def test_more_shards_than_there_may_be_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absolute limit of their size would refuse what a small corpus is fine with."""
    monkeypatch.setattr(documents_module, "MAX_SHARDS", 3)
    write_texts(["a", "b", "c"], tmp_path / "three", shard_bytes=1)

    with pytest.raises(
        InputError, match=r"more than 3 shards of 1 bytes: .*download\.shard_bytes"
    ):
        write_texts(["a", "b", "c", "d"], tmp_path / "four", shard_bytes=1)


def move_in_from_another_corpus(folder: Path) -> None:
    write_texts(["x", "y", "z"], folder / "other", shard_bytes=1)
    (folder / "other/documents-00001.parquet").replace(
        folder / "documents-00001.parquet"
    )
    shutil.rmtree(folder / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "documents-00002.parquet").unlink(),
            "documents-00002.parquet is missing: ",
        ),
        (
            lambda folder: (folder / "manifest.json").unlink(),
            "manifest.json is missing: ",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text(
                (folder / "manifest.json").read_text().replace("s-00001", "s-00007")
            ),
            "manifest.json is damaged (there is documents-00007.parquet, but no "
            "documents-00001.parquet); ",
        ),
        (
            lambda folder: (folder / "documents-00003.parquet").touch(),
            "documents-00003.parquet is not in FOLDER/manifest.json, but left from "
            "another run: ",
        ),
        (
            lambda folder: (folder / DOCUMENTS_FILE).touch(),
            "documents.parquet is not in FOLDER/manifest.json, but left from another "
            "run: ",
        ),
        (
            move_in_from_another_corpus,
            "documents-00001.parquet is damaged: its contents are not what download "
            "wrote; ",
        ),
    ],
    ids=["missing", "unlisted", "gap", "too many", "left over", "mixed"],
)
def test_shards_that_are_not_those_of_one_corpus_are_refused(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    write_texts(["a", "b", "c"], tmp_path, shard_bytes=1)
    corpus_digest(tmp_path)
    change(tmp_path)

    with pytest.raises(InputError) as caught:
        corpus_digest(tmp_path)

    expected = message.replace("FOLDER", str(tmp_path))
    assert str(caught.value) == f"{tmp_path}/{expected}{FORCE}"
