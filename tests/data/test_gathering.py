"""Chunks, duplicates and shards: the corpus is that of a loop over all documents."""

import errno
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import chdir
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.engines.shard_functions import read_or_be_killed
from tests.data.test_local_files import write
from tests.files import digests_in
from tests.project import PROJECT
from tests.tiny import runtime_params
from toygpt.data import gathering
from toygpt.data.chunks import KNOWN, FoundCorpus, Read, read_chunk
from toygpt.data.corpus import Document
from toygpt.data.documents import (
    open_documents,
    read_groups,
    read_ids,
    read_texts,
    write_shard,
)
from toygpt.data.engines.engine import Engine
from toygpt.data.gathering import Gathered, cuts, gather, lengths_of_distinct
from toygpt.data.local_files import find_files, read_local_files
from toygpt.data.shards import Shard
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import DownloadParams

NO_LIMITS: dict[str, Any] = {"max_documents": None, "max_bytes": None}


def gathered(
    texts: Path,
    directory: Path,
    *,
    read: Read = read_local_files,
    workers: int = 1,
    **params: Any,
) -> Gathered:
    """Gather the files of a folder into another one."""
    directory.mkdir()
    with Engine("download", runtime_params(data_workers=workers)) as engine:
        return gather(
            FoundCorpus(find_files(texts), read),
            engine,
            directory,
            DownloadParams(**NO_LIMITS | params),
        )


class Expected(NamedTuple):
    """A corpus as a plain loop cleans and cuts it."""

    shards: list[list[tuple[str, str, str]]]  # id, group and text of each document
    left_out: Counter[str]


def group_in_table(number: int, place: int) -> str:
    """Return what a row of a table has as its group: every other table names none."""
    return f"group {place % 2}" if number % 2 else ""


def plain_loop(
    files: Sequence[Sequence[bytes]],
    *,
    max_documents: int | None,
    max_bytes: int | None,
    shard_bytes: int,
) -> Expected:
    shards: list[list[tuple[str, str, str]]] = []
    left_out: Counter[str] = Counter()
    seen: set[bytes] = set()
    in_all = in_shard = 0
    for number, rows in enumerate(files):
        for place, content in enumerate(rows, start=1):
            if len(seen) == max_documents:
                return Expected(shards, left_out)
            name = f"{number:02}.csv:{place}"
            group = group_in_table(number, place) or name
            if b"\xff" in content:
                left_out["not_utf8"] += 1
            elif not content.strip():
                left_out["empty"] += 1
            elif content in seen:
                left_out["duplicate"] += 1
            else:
                seen.add(content)
                in_all += len(content)
                if max_bytes is not None and in_all > max_bytes:
                    return Expected(shards, left_out)
                if not shards or in_shard + len(content) > shard_bytes:
                    shards.append([])
                    in_shard = 0
                in_shard += len(content)
                shards[-1].append((name, group, content.decode()))
    return Expected(shards, left_out)


def documents_of(directory: Path, shard: Shard) -> list[tuple[str, str, str]]:
    texts = chain.from_iterable(read_texts(directory, shard))
    names = read_ids(directory, shard), read_groups(directory, shard)
    return list(zip(*names, texts, strict=True))


few_texts = st.sampled_from([b"a", b"bb", b"bc", "é".encode(), b"dddd", b"\xff", b" "])
limits = st.none() | st.integers(1, 12)


@settings(max_examples=60)
@given(
    files=st.lists(st.lists(few_texts, min_size=1, max_size=5), max_size=6),
    max_documents=limits,
    max_bytes=limits,
    shard_bytes=st.integers(1, 12),
)
def test_chunks_give_what_a_plain_loop_over_all_documents_gives(
    files: list[list[bytes]],
    max_documents: int | None,
    max_bytes: int | None,
    shard_bytes: int,
) -> None:
    """For any number of chunks and shards, wherever a limit ends the corpus."""
    params: Any = {"max_documents": max_documents, "max_bytes": max_bytes}
    params["shard_bytes"] = shard_bytes
    expected = plain_loop(files, **params)
    tables: dict[str, str | bytes] = {
        f"{number:02}.csv": b"text,group\n"
        + b"".join(
            b'"%s",%s\n' % (row, group_in_table(number, place).encode())
            for place, row in enumerate(rows, start=1)
        )
        for number, rows in enumerate(files)
    }

    with TemporaryDirectory() as folder, chdir(folder):
        Path("texts").mkdir()
        result = gathered(write(Path("texts"), tables), Path("documents"), **params)
        shards = open_documents(Path("documents")) if result.num_documents else []
        found = [documents_of(Path("documents"), shard) for shard, *_ in shards]

    assert found == expected.shards
    assert result.num_documents == sum(map(len, expected.shards))
    texts = [text.encode() for shard in expected.shards for *_, text in shard]
    assert result.num_bytes == len(b"".join(texts))
    assert sum(shard.num_bytes for shard in shards) == result.num_bytes
    left_out = {reason.key: n for reason, n in result.inventory.left_out.items()}
    assert left_out == expected.left_out


two_numbers = st.tuples(st.integers(0, 3), st.integers(0, 2))


@settings(max_examples=60)
@given(
    files=st.lists(st.lists(two_numbers, unique=True), min_size=1),
    at_once=st.integers(1, 9),
)
def test_a_text_is_known_again_by_its_whole_digest(
    files: list[list[tuple[int, int]]], at_once: int
) -> None:
    """In any file, and however few digests are compared at once."""
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / str(number) for number in range(len(files))]
        for path, digests in zip(paths, files, strict=True):
            np.array([(*digest, 7) for digest in digests], KNOWN).tofile(path)

        lengths = lengths_of_distinct(paths, at_once=at_once)

    digests = [*chain.from_iterable(files)]
    is_first = [digest not in digests[:place] for place, digest in enumerate(digests)]
    assert lengths.tolist() == [7 * first for first in is_first]


TABLES: dict[str, str | bytes] = {
    f"{number}.jsonl": "\n".join(
        json.dumps({"text": f"text {number * row} " * 20}) for row in range(60)
    )
    for number in range(4)
}


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of four tables, in an empty project."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))  # where a worker finds the tests
    return write(tmp_path / "texts", TABLES)


@pytest.mark.slow
def test_workers_make_the_bytes_of_one_process_also_if_one_is_killed(
    texts: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    read = partial(read_or_be_killed, log=log, killed="2.jsonl")

    alone = gathered(texts, tmp_path / "alone", shard_bytes=9_000)
    shared = gathered(
        texts, tmp_path / "shared", shard_bytes=9_000, read=read, workers=2
    )

    assert Counter(log.read_text().split()) == Counter([*TABLES, "2.jsonl"])
    assert digests_in(tmp_path / "shared") == digests_in(tmp_path / "alone")
    assert len(open_documents(tmp_path / "shared")) > 1
    assert shared.inventory.values() == alone.inventory.values()


def test_a_chunk_is_named_by_its_files_and_measured_as_they_are_stored(
    texts: Path, tmp_path: Path
) -> None:
    corpus = FoundCorpus(find_files(texts), read_local_files)
    (chunk,) = corpus.chunks(chunk_bytes=10**9, has_limit=False)
    done: list[int] = []

    read_chunk(chunk, tmp_path, done.append, read=corpus.read, **NO_LIMITS)

    assert chunk.name == "4 files from 0.jsonl to 3.jsonl"
    assert sum(done) == chunk.size == sum(map(len, TABLES.values()))


def test_a_rerun_reads_only_the_chunks_that_are_missing(
    texts: Path, tmp_path: Path
) -> None:
    read = partial(read_or_be_killed, log=tmp_path / "log")
    write(texts, {"3.jsonl": '{"text": "fine"}\n{"text": '})

    with pytest.raises(InputError, match=r"3\.jsonl, line 2, is not JSON"):
        gathered(texts, tmp_path / "broken", shard_bytes=9_000, read=read)
    assert list((tmp_path / "broken").iterdir()) == []
    write(texts, {"3.jsonl": TABLES["3.jsonl"]})
    gathered(texts, tmp_path / "whole", shard_bytes=9_000, read=read)
    gathered(texts, tmp_path / "alone", shard_bytes=9_000)

    names = (tmp_path / "log").read_text().split()
    assert Counter(names) == Counter([*TABLES, "3.jsonl"])
    assert digests_in(tmp_path / "whole") == digests_in(tmp_path / "alone")
    assert not list(Path(".toygpt/shards").glob("*/"))


def test_a_rerun_writes_only_the_shards_that_are_missing(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    is_full = True

    def write_on_a_full_disk(documents: Iterable[Document], path: Path) -> None:
        if is_full and written:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path.name)
        write_shard(documents, path)

    monkeypatch.setattr(gathering, "write_shard", write_on_a_full_disk)

    with pytest.raises(OSError, match="No space left"):
        gathered(texts, tmp_path / "full", shard_bytes=9_000)
    is_full = False
    gathered(texts, tmp_path / "whole", shard_bytes=9_000)

    assert written == [it.file_name for it in open_documents(tmp_path / "whole")]
    assert len(written) > 1


@pytest.mark.parametrize("limit", [{"max_documents": 3}, {"max_bytes": 500}])
def test_a_limit_ends_the_reading_and_the_search_for_files(
    texts: Path, tmp_path: Path, limit: dict[str, int]
) -> None:
    """A dataset on the hub is then not fetched whole."""
    found: list[str] = []

    def files() -> Any:
        for file in find_files(texts):
            found.append(file.name)
            yield file

    (tmp_path / "documents").mkdir()
    with Engine("download", runtime_params()) as engine:
        gather(
            FoundCorpus(files(), read_local_files),
            engine,
            tmp_path / "documents",
            DownloadParams(**NO_LIMITS | limit | {"shard_bytes": 10**9}),
        )

    assert found == ["0.jsonl", "1.jsonl"]


def test_more_shards_than_there_may_be_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An absolute limit of their size would refuse what a small corpus is fine with."""
    monkeypatch.setattr(gathering, "MAX_SHARDS", 3)
    assert cuts(np.array([1, 0, 1, 0, 1]), 1) == [2, 4, 5]

    with pytest.raises(
        InputError, match=r"more than 3 shards of 1 bytes: .*download\.shard_bytes"
    ):
        cuts(np.array([1, 1, 1, 1]), 1)
