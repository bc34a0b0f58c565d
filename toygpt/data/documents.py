"""Documents on disk: a Parquet file for each shard of the corpus.

Several shards have a manifest beside them, so that a missing or exchanged one is found.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from toygpt.data.corpus import Document
from toygpt.data.file_records import (
    FileRecord,
    check_in_worker,
    check_names_and_sizes,
    record_of,
)
from toygpt.data.shards import THE_ONLY_SHARD, Shard, digest_of_shards, shards_named
from toygpt.data.token_files import batched
from toygpt.pipeline.errors import InputError, first_line
from toygpt.pipeline.files import write_json
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
    text_bytes: dict[str, int]  # of UTF-8, in each file


class DocumentsShard(NamedTuple):
    """A shard of documents on disk."""

    shard: Shard
    record: FileRecord  # of its file
    num_bytes: int  # of UTF-8 text

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return self.shard.name(DOCUMENTS_FILE)


def write_shard(documents: Iterable[Document], path: Path) -> None:
    """Write documents as Parquet, a few megabytes at a time."""
    with pq.ParquetWriter(
        path, SCHEMA, compression="zstd", write_page_checksum=True
    ) as writer:
        for batch in batched(
            documents, size=BYTES_PER_ROW_GROUP, length=lambda each: each.num_bytes
        ):
            table = pa.Table.from_pylist([d._asdict() for d in batch], schema=SCHEMA)
            writer.write_table(table)


def write_documents_manifest(
    directory: Path, files: dict[str, FileRecord], text_bytes: dict[str, int]
) -> None:
    """Write what is known of the shards of a corpus, if there are several."""
    manifest = DocumentsManifest(MANIFEST_VERSION, files, text_bytes)
    write_json(directory / "manifest.json", asdict(manifest))


def open_documents(directory: Path) -> list[DocumentsShard]:
    """Return the shards of a corpus, after a look at the names and sizes of its files.

    A single shard is read for its record. Those of several come from the manifest: who
    uses a shard calls `check_shard` before.

    Raises:
        InputError: A shard is missing, of another size, or left from another corpus.
    """
    manifest = _manifest_of_several(directory)
    if manifest is None:
        num_bytes = count_bytes(directory, THE_ONLY_SHARD)
        record = record_of(directory / DOCUMENTS_FILE)
        return [DocumentsShard(THE_ONLY_SHARD, record, num_bytes)]
    check_names_and_sizes(directory, manifest.files, made_by="download")
    return [
        DocumentsShard(shard, manifest.files[name], manifest.text_bytes[name])
        for shard in shards_named(manifest.files, DOCUMENTS_FILE)
        for name in [shard.name(DOCUMENTS_FILE)]
    ]


def check_shard(directory: Path, documents: DocumentsShard) -> None:
    """Compare the size and the digest of one of several shards.

    Raises:
        InputError: It is missing, or is not what `download` wrote.
    """
    if documents.shard.num_shards > 1:
        path = directory / documents.file_name
        check_in_worker(path, documents.record, made_by="download")


def digest_of_corpus(shards: Sequence[DocumentsShard]) -> str:
    """Return the digest of a whole corpus."""
    return digest_of_shards([documents.record.sha256 for documents in shards])


def _manifest_of_several(directory: Path) -> DocumentsManifest | None:
    """Return the manifest of a corpus of several shards; that of one has none."""
    path = directory / "manifest.json"
    found = {file.name for file in directory.glob("*.parquet")}
    if found <= {DOCUMENTS_FILE} and not path.exists():
        return None
    advice = "run `dvc repro --force --single-item download`"
    try:
        manifest = read_json(
            path, DocumentsManifest, version=MANIFEST_VERSION, advice=advice
        )
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {advice}") from None
    try:
        shards_named(manifest.files, DOCUMENTS_FILE)
        if manifest.text_bytes.keys() != manifest.files.keys():
            raise InputError("text_bytes names other files")
    except InputError as error:
        raise InputError(f"{path} is damaged ({error}); {advice}") from None
    return manifest


def read_texts(
    directory: Path, shard: Shard, *, row_groups: Sequence[int] | None = None
) -> Iterator[list[str]]:
    """Yield the texts of a shard, or of some of its row groups, in order.

    They come in lists of a few megabytes.
    """
    for texts in _read_column(directory, shard, "text", row_groups):
        yield texts.to_pylist()


def count_bytes(directory: Path, shard: Shard) -> int:
    """Return how many bytes of UTF-8 the texts of a shard have.

    The bytes are counted where Arrow keeps them; no Python strings are made.
    """
    columns = _read_column(directory, shard, "text")
    return sum(pc.sum(pc.binary_length(it), min_count=0).as_py() for it in columns)


def count_row_groups(directory: Path, shard: Shard) -> int:
    """Return in how many row groups the documents of a shard are stored."""
    with _opened(directory / shard.name(DOCUMENTS_FILE)) as file:
        return int(file.num_row_groups)


def read_ids(directory: Path, shard: Shard) -> Iterator[str]:
    """Yield the id of each document of a shard, in order."""
    for ids in _read_column(directory, shard, "id"):
        yield from ids.to_pylist()


def read_groups(directory: Path, shard: Shard) -> Iterator[str]:
    """Yield the group of each document of a shard, in order."""
    for groups in _read_column(directory, shard, "group"):
        yield from groups.to_pylist()


def read_rows(path: Path, first: int, last: int) -> Iterator[tuple[str, str, str]]:
    """Yield id, group and text of the documents of a file from `first` to `last`.

    Row groups that have none of them are not read.
    """
    with _opened(path) as file:
        start = 0
        for number in range(file.num_row_groups):
            end = start + file.metadata.row_group(number).num_rows
            if start < last and end > first:
                table = file.read_row_group(number)
                table = table.slice(max(first - start, 0), last - max(first, start))
                yield from zip(*table.to_pydict().values(), strict=True)
            start = end


def _read_column(
    directory: Path, shard: Shard, name: str, row_groups: Sequence[int] | None = None
) -> Iterator[pa.ChunkedArray]:
    """Yield a column of the documents that `download` wrote, in pieces.

    Raises:
        InputError: The documents are missing or damaged.
    """
    with _opened(directory / shard.name(DOCUMENTS_FILE)) as file:
        numbers = range(file.num_row_groups) if row_groups is None else row_groups
        for number in numbers:
            yield file.read_row_group(number, columns=[name]).column(name)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a file of documents; name the file in every error of reading it."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run `dvc repro download`") from None
    except (OSError, KeyError, UnicodeDecodeError, pa.ArrowException) as error:
        raise InputError(
            f"{path} is damaged ({first_line(error)}): run "
            f"`dvc repro --force --single-item download`"
        ) from None
