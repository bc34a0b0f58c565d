"""Gather the documents of a corpus: chunks are read, duplicates found, shards written.

Chunks are worked on at once, and so are shards. Between them, this process compares the
digests of all documents, and cuts the corpus by their lengths: the result is that of a
plain loop over all documents, for any engine and number of workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from toygpt.data.chunks import KNOWN, FoundCorpus, read_chunk
from toygpt.data.corpus import Document
from toygpt.data.documents import (
    DOCUMENTS_FILE,
    read_rows,
    write_documents_manifest,
    write_shard,
)
from toygpt.data.engines.engine import Engine, Work
from toygpt.data.engines.tasks import Advance
from toygpt.data.file_records import FileRecord, record_of, wait_for
from toygpt.data.inventory import Inventory, Reason
from toygpt.data.shards import MAX_SHARDS, Shard
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import temporary_directory
from toygpt.pipeline.params import DownloadParams

# Digests that are compared at once: 60 bytes each, 110 where each text occurs twice.
DIGESTS_AT_ONCE = 2**27


class Gathered(NamedTuple):
    """What was gathered."""

    num_documents: int
    num_bytes: int  # of UTF-8
    inventory: Inventory


class ChunkFile(NamedTuple):
    """The documents of a chunk on disk, duplicates among them."""

    name: str
    record: FileRecord
    num_documents: int


class Rows(NamedTuple):
    """The documents of a shard, counted from the first one of all chunks."""

    shard: Shard
    first: int
    end: int  # one past the last
    num_bytes: int  # of UTF-8

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return self.shard.name(DOCUMENTS_FILE)


def gather(
    corpus: FoundCorpus, engine: Engine, directory: Path, params: DownloadParams
) -> Gathered:
    """Write the documents of a corpus into an empty folder.

    Until the end, the text is on disk once more, compressed. Memory grows by 12 bytes
    for each document, once the digests are compared. A chunk takes 83 for each of its
    texts where it is read: in a worker, and with a limit in this process.

    Raises:
        InputError: A file cannot be read, or there would be too many shards.
    """
    has_limit = params.max_documents is not None or params.max_bytes is not None
    chunks = corpus.chunks(chunk_bytes=params.shard_bytes, has_limit=has_limit)
    inventory = Inventory()
    # By a path that stays the same, a rerun finds all results again. A corpus that is
    # small, or has a limit, needs no lock; a rerun does all of it again.
    is_small = sum(chunk.size for chunk in chunks) < params.shard_bytes
    place = temporary_directory(directory) if is_small else engine.new_folder("chunks")
    with place as folder:
        read = partial(
            read_chunk,
            read=corpus.read,
            max_documents=params.max_documents,
            max_bytes=params.max_bytes,
        )
        work = [Work(chunk.name, chunk, chunk.size) for chunk in chunks]
        files = []
        found = engine.map(read, work, folder, description="download")
        for chunk, values in zip(chunks, found, strict=True):
            inventory.add(values["inventory"])
            record, documents = FileRecord(**values["record"]), values["documents"]
            files.append(ChunkFile(chunk.documents_file, record, documents))
        num_bytes = lengths_of_distinct([folder / it.known_file for it in chunks])
        if duplicates := int(np.count_nonzero(num_bytes == 0)):
            inventory.left_out[Reason.DUPLICATE] += duplicates
        ends = cuts(num_bytes, params.shard_bytes)
        shards = []
        for number, (first, end) in enumerate(zip([0, *ends], ends, strict=False)):
            size = int(num_bytes[first:end].sum(dtype=np.int64))
            shards.append(Rows(Shard(number, len(ends)), first, end, size))
        write = partial(write_rows, folder=folder, files=files, num_bytes=num_bytes)
        work = [Work(rows.file_name, rows, rows.num_bytes) for rows in shards]
        written = list(engine.map(write, work, directory, description="write"))
    if len(shards) > 1:
        write_documents_manifest(
            directory,
            files={
                rows.file_name: FileRecord(**record)
                for rows, record in zip(shards, written, strict=True)
            },
            text_bytes={rows.file_name: rows.num_bytes for rows in shards},
        )
    num_documents = int(np.count_nonzero(num_bytes))
    return Gathered(num_documents, sum(it.num_bytes for it in shards), inventory)


def lengths_of_distinct(
    files: Sequence[Path], *, at_once: int = DIGESTS_AT_ONCE
) -> NDArray[np.uint32]:
    """Return the length of each document, and 0 where an earlier one has its text.

    The digests are compared in parts, by their value, and for each part all files are
    read: so memory grows by the lengths alone.

    Args:
        files: The digest and the length of each document, in the order of the corpus;
            those of one file are distinct.
        at_once: How many digests a part has, about.
    """
    num_bytes = np.concatenate(
        [np.fromfile(it, KNOWN)["num_bytes"].copy() for it in files]
    )
    num_parts = 1 + len(num_bytes) // at_once if len(files) > 1 else 0
    for part in range(num_parts):
        places, known = _part_of(files, part, num_parts)
        num_bytes[places[repeated(known)]] = 0
    return num_bytes


def _part_of(
    files: Sequence[Path], part: int, num_parts: int
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the documents whose digest is in a part: their places, and digests."""
    places, known = [], []
    start = 0
    for file in files:
        in_file = np.fromfile(file, KNOWN)
        chosen = np.flatnonzero(in_file["high"] % num_parts == part)
        places.append(start + chosen)
        known.append(in_file[chosen])
        start += len(in_file)
    return np.concatenate(places), np.concatenate(known)


def repeated(known: NDArray[Any]) -> NDArray[np.int64]:
    """Return the places of digests that are at an earlier place as well."""
    # Few are equal in half of their digest: these alone are sorted by all of it.
    order = np.argsort(known["high"])
    high = known["high"][order]
    is_candidate = np.zeros(len(known), dtype=bool)
    is_candidate[1:] = high[1:] == high[:-1]
    is_candidate[:-1] |= is_candidate[1:]
    candidates = np.sort(order[is_candidate])
    few = known[candidates]
    order = np.lexsort((few["low"], few["high"]))  # equal ones stay in their order
    digests = few[["high", "low"]][order]
    return candidates[order[1:]][digests[1:] == digests[:-1]]


def cuts(num_bytes: NDArray[np.uint32], shard_bytes: int) -> list[int]:
    """Return where each shard ends: one past its last document.

    A shard is as large as it may be; a document that is longer has one of its own.

    Raises:
        InputError: There would be more shards than there may be.
    """
    ends: list[int] = []
    in_all = num_bytes.astype(np.int64)
    in_all.cumsum(out=in_all)
    before = 0
    while len(in_all) and before < in_all[-1]:
        first = int(np.searchsorted(in_all, before, side="right"))
        end = int(np.searchsorted(in_all, before + shard_bytes, side="right"))
        ends.append(max(end, first + 1))
        before = int(in_all[ends[-1] - 1])
        if len(ends) > MAX_SHARDS:
            raise InputError(
                f"the corpus has more than {MAX_SHARDS:,} shards of "
                f"{shard_bytes:,} bytes: use larger ones (download.shard_bytes in "
                f"params.yaml)"
            )
    return ends


def write_rows(
    rows: Rows,
    directory: Path,
    advance: Advance,
    *,
    folder: Path,
    files: Sequence[ChunkFile],
    num_bytes: NDArray[np.uint32],
) -> dict[str, Any]:
    """Write the documents of a shard; return the record of their file.

    Args:
        rows: Which documents.
        directory: The folder for the file.
        advance: Is called with the length of each document.
        folder: The folder of the chunks.
        files: The files of all chunks.
        num_bytes: As `lengths_of_distinct` returns it.

    Raises:
        InputError: A chunk is missing or damaged.
    """

    def documents() -> Iterator[Document]:
        end = 0
        for file in files:
            start, end = end, end + file.num_documents
            if start < rows.end and end > rows.first:
                first, last = max(start, rows.first), min(end, rows.end)
                path = folder / file.name
                wait_for(path, file.record, made_by="download")
                found = read_rows(path, first - start, last - start)
                lengths = num_bytes[first:last].tolist()
                for names_and_text, length in zip(found, lengths, strict=True):
                    if length:
                        yield Document(*names_and_text, length)
                        advance(length)

    path = directory / rows.file_name
    write_shard(documents(), path)
    return asdict(record_of(path))
