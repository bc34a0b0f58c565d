"""Documents on disk: a Parquet file for each shard of the corpus.

Several shards have a manifest beside them, so that a missing or exchanged one is found.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from toygpt.data.corpus import Document
from toygpt.data.file_records import (
    FileRecord,
    check_digests,
    check_names_and_sizes,
    record_files,
)
from toygpt.data.shards import (
    MAX_SHARDS,
    THE_ONLY_SHARD,
    Shard,
    digest_of_shards,
    shards_named,
)
from toygpt.data.token_files import batched
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import sha256_of, write_json
from toygpt.pipeline.json_file import read_json

DOCUMENTS_FILE = "documents.parquet"
MANIFEST_VERSION = 1
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "group", "text")])
# Text that is collected in memory before it is written, and that is read at once.
BYTES_PER_ROW_GROUP = 8_000_000


@dataclass(frozen=True)
class DocumentsManifest:
    """The files of a corpus of several shards."""

    version: int
    files: dict[str, FileRecord]


def write_documents(
    documents: Iterable[Document], directory: Path, *, shard_bytes: int
) -> tuple[int, int]:
    """Write documents as Parquet, a few megabytes at a time.

    Args:
        documents: In the order of the corpus.
        directory: An empty folder.
        shard_bytes: Bytes of UTF-8 in one shard, at most, unless a single document is
            longer. Nothing else decides where the corpus is cut.

    Returns:
        How many documents, and how many bytes of UTF-8, were written.

    Raises:
        InputError: The documents do not fit into as many shards as there may be.
    """
    num_documents = num_bytes = number = 0
    in_shards = _with_shard_numbers(documents, shard_bytes)
    for number, of_shard in groupby(in_shards, key=itemgetter(0)):
        path = directory / Shard(number, MAX_SHARDS).name(DOCUMENTS_FILE)
        counts = _write_shard((document for _, document in of_shard), path)
        num_documents += counts[0]
        num_bytes += counts[1]
    if number > 0:
        files = record_files(directory, "*.parquet")
        manifest = DocumentsManifest(MANIFEST_VERSION, files)
        write_json(directory / "manifest.json", asdict(manifest))
    elif num_documents:
        path.rename(directory / THE_ONLY_SHARD.name(DOCUMENTS_FILE))
    return num_documents, num_bytes


def _with_shard_numbers(
    documents: Iterable[Document], shard_bytes: int
) -> Iterator[tuple[int, Document]]:
    """Yield each document with the number of its shard."""
    number = size = 0
    for document in documents:
        num_bytes = document.num_bytes
        if size > 0 and size + num_bytes > shard_bytes:
            number, size = number + 1, 0
            if number == MAX_SHARDS:
                raise InputError(
                    f"the corpus has more than {MAX_SHARDS:,} shards of "
                    f"{shard_bytes:,} bytes: use larger ones (download.shard_bytes in "
                    f"params.yaml)"
                )
        size += num_bytes
        yield number, document


def _write_shard(documents: Iterable[Document], path: Path) -> tuple[int, int]:
    """Write a shard; return how many documents and bytes of UTF-8 it has."""
    num_documents = num_bytes = 0
    with pq.ParquetWriter(
        path, SCHEMA, compression="zstd", write_page_checksum=True
    ) as writer:
        for batch in batched(
            documents, size=BYTES_PER_ROW_GROUP, length=lambda each: each.num_bytes
        ):
            table = pa.Table.from_pylist([d._asdict() for d in batch], schema=SCHEMA)
            writer.write_table(table)
            num_documents += len(batch)
            num_bytes += _length_in_bytes(table.column("text"))
    return num_documents, num_bytes


def find_shards(directory: Path) -> list[Shard]:
    """Return the shards of a corpus, after a look at the names and sizes of its files.

    Raises:
        InputError: A shard is missing, of another size, or left from another corpus.
    """
    files = _files_of_several(directory)
    if not files:
        return [THE_ONLY_SHARD]
    check_names_and_sizes(directory, files, made_by="download")
    return shards_named(files, DOCUMENTS_FILE)


def corpus_digest(directory: Path) -> str:
    """Return the digest of the whole corpus, after reading every file of it.

    Raises:
        InputError: A shard is missing, or is not what `download` wrote.
    """
    shards = find_shards(directory)
    files = _files_of_several(directory)
    if not files:
        return sha256_of(directory / DOCUMENTS_FILE)
    check_digests(directory, files, made_by="download")
    return digest_of_shards(
        [files[shard.name(DOCUMENTS_FILE)].sha256 for shard in shards]
    )


def _files_of_several(directory: Path) -> dict[str, FileRecord]:
    """Return the files of a corpus of several shards, and none of a corpus of one."""
    path = directory / "manifest.json"
    found = {file.name for file in directory.glob("*.parquet")}
    if found <= {DOCUMENTS_FILE} and not path.exists():
        return {}
    advice = "run `dvc repro --force --single-item download`"
    try:
        manifest = read_json(
            path, DocumentsManifest, version=MANIFEST_VERSION, advice=advice
        )
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {advice}") from None
    try:
        shards_named(manifest.files, DOCUMENTS_FILE)
    except InputError as error:
        raise InputError(f"{path} is damaged ({error}); {advice}") from None
    return manifest.files


def read_texts(directory: Path, shard: Shard) -> Iterator[list[str]]:
    """Yield the texts of a shard, in order, in lists of a few megabytes."""
    yield from _read_column(directory, shard, "text")


def count_bytes(directory: Path, shard: Shard) -> int:
    """Return how many bytes of UTF-8 the texts of a shard have.

    The bytes are counted where Arrow keeps them; no Python strings are made.
    """
    return sum(_read_column(directory, shard, "text", _length_in_bytes))


def read_groups(directory: Path, shard: Shard) -> Iterator[str]:
    """Yield the group of each document of a shard, in order."""
    for groups in _read_column(directory, shard, "group"):
        yield from groups


def _length_in_bytes(texts: pa.ChunkedArray) -> int:
    return int(pc.sum(pc.binary_length(texts), min_count=0).as_py())


def _read_column(
    directory: Path,
    shard: Shard,
    name: str,
    take: Callable[[pa.ChunkedArray], Any] = pa.ChunkedArray.to_pylist,
) -> Iterator[Any]:
    """Yield a column of the documents that `download` wrote, in pieces.

    Args:
        directory: The folder of the documents.
        shard: The shard whose documents are read.
        name: The column's name.
        take: Turns a piece of the column into what is yielded; by default into a list.

    Raises:
        InputError: The documents are missing or damaged.
    """
    path = directory / shard.name(DOCUMENTS_FILE)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, columns=[name])
                yield take(table.column(name))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run `dvc repro download`") from None
    except (OSError, KeyError, UnicodeDecodeError, pa.ArrowException) as error:
        raise InputError(
            f"{path} is damaged ({error}): run "
            f"`dvc repro --force --single-item download`"
        ) from None
