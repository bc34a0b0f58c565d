"""Documents on disk: cut into shards by their text alone, and read again."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.data.written import document, write_documents
from tests.faults.damaged import truncated, without_data
from toygpt.data.documents import (
    BYTES_PER_ROW_GROUP,
    DOCUMENTS_FILE,
    check_shard,
    count_bytes,
    digest_of_corpus,
    open_documents,
    read_groups,
    read_ids,
    read_rows,
    read_texts,
)
from toygpt.data.shards import THE_ONLY_SHARD
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import sha256_of

FORCE = "run `dvc repro --force --single-item download`"


@pytest.fixture(autouse=True)
def _own_project(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work in an empty folder, but write the documents into another one."""
    monkeypatch.chdir(tmp_path_factory.mktemp("project"))


def write_texts(texts: Sequence[str], directory: Path, *, shard_bytes: int) -> None:
    directory.mkdir(exist_ok=True)
    documents = [document(f"{n}", f"g{n}", text) for n, text in enumerate(texts)]
    write_documents(documents, directory, shard_bytes=shard_bytes)


def corpus_digest(directory: Path) -> str:
    """Return the digest of a corpus, after every shard was checked."""
    shards = open_documents(directory)
    for shard in shards:
        check_shard(directory, shard)
    return digest_of_corpus(shards)


def texts_of_shards(directory: Path) -> list[list[str]]:
    return [
        [text for texts in read_texts(directory, shard) for text in texts]
        for shard, *_ in open_documents(directory)
    ]


@pytest.mark.parametrize("num_documents", [1, 1_000])
def test_documents_are_read_as_they_were_written(
    tmp_path: Path, num_documents: int
) -> None:
    documents = [
        document(f"id {number}", f"group {number % 7}", f"text {number}\0\r\né")
        for number in range(num_documents)
    ]

    write_documents(documents, tmp_path)

    assert count_bytes(tmp_path, THE_ONLY_SHARD) == sum(
        len(it.content) for it in documents
    )
    texts = [text for texts in read_texts(tmp_path, THE_ONLY_SHARD) for text in texts]
    assert texts == [it.content.decode() for it in documents]
    ids, groups = ([it[place] for it in documents] for place in (0, 1))
    assert list(read_ids(tmp_path, THE_ONLY_SHARD)) == ids
    assert list(read_groups(tmp_path, THE_ONLY_SHARD)) == groups
    path = tmp_path / DOCUMENTS_FILE
    assert pq.read_schema(path).names == ["id", "group", "text"]
    # The same documents make the same file: else no later result could be reused.
    (shard,) = open_documents(tmp_path)
    assert shard.shard == THE_ONLY_SHARD
    assert corpus_digest(tmp_path) == shard.record.sha256 == sha256_of(path)
    before = path.read_bytes()
    write_documents(documents, tmp_path)
    assert path.read_bytes() == before


def test_documents_are_written_before_memory_fills_up(tmp_path: Path) -> None:
    half = "a" * (BYTES_PER_ROW_GROUP // 2)

    documents = (document(str(n), "group", f"{n}{half}") for n in range(5))
    write_documents(documents, tmp_path)

    with pq.ParquetFile(tmp_path / DOCUMENTS_FILE) as file:
        metadata = file.metadata
    sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize(("first", "last"), [(0, 5), (1, 2), (2, 4), (3, 3)])
def test_rows_of_a_file_are_read_from_the_row_groups_that_have_them(
    tmp_path: Path, first: int, last: int
) -> None:
    half = "a" * (BYTES_PER_ROW_GROUP // 2)
    documents = [document(str(n), f"g{n}", f"{n}{half}") for n in range(5)]
    write_documents(documents, tmp_path)

    found = read_rows(tmp_path / DOCUMENTS_FILE, first, last)

    assert list(found) == [
        (it.id, it.group, it.content.decode()) for it in documents[first:last]
    ]


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
        documents = (document(str(n), "g", str(n)) for n in range(5_000))
        write_documents(documents, tmp_path)
        path.write_bytes(damage(path.read_bytes()))
        reason, command = "is damaged (", "dvc repro --force --single-item download"

    with pytest.raises(InputError) as caught:
        list(read_texts(tmp_path, THE_ONLY_SHARD))

    assert str(caught.value).startswith(f"{path} {reason}")
    assert str(caught.value).endswith(f"run `{command}`")


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
