"""Gather the documents of a corpus: parts are read, duplicates found, shards written.

Parts are worked on at once, and so are shards. Between them, this process compares the
digests of all documents, and cuts the corpus by their lengths: the result is that of a
plain loop over all documents, for any engine and number of workers.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from toygpt.data.corpus import Document
from toygpt.data.documents import (
    DOCUMENTS_FILE,
    read_rows,
    write_documents_manifest,
    write_shard,
)
from toygpt.data.engines import Engine, Work
from toygpt.data.file_records import FileRecord, record_of, wait_for
from toygpt.data.inventory import Inventory, Reason
from toygpt.data.parts import KNOWN, FoundCorpus, read_part
from toygpt.data.shards import MAX_SHARDS, Shard
from toygpt.data.tasks import Advance
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import DownloadParams


class Gathered(NamedTuple):
    """What was gathered."""

    num_documents: int
    num_bytes: int  # of UTF-8
    inventory: Inventory


class Rows(NamedTuple):
    """Consecutive documents of a part, duplicates among them."""

    file: str
    record: FileRecord  # of the file
    first: int  # counted from the first document of the part
    last: int  # one past the last


class ShardRows(NamedTuple):
    """A shard that is to be written, and the documents for it."""

    shard: Shard
    first: int  # counted from the first document of all parts
    rows: list[Rows]  # from there on
    num_bytes: int  # of UTF-8

    @property
    def file_name(self) -> str:
        """The name of the shard's file."""
        return self.shard.name(DOCUMENTS_FILE)


def gather(
    corpus: FoundCorpus, engine: Engine, directory: Path, params: DownloadParams
) -> Gathered:
    """Write the documents of a corpus into an empty folder.

    Until the end, the text is on disk once more, compressed. Memory grows by 50 bytes
    for each document, and in a worker by a digest for each of its part.

    Raises:
        InputError: A file cannot be read, or there would be too many shards.
    """
    has_limit = params.max_documents is not None or params.max_bytes is not None
    parts = corpus.parts(part_bytes=params.shard_bytes, has_limit=has_limit)
    read = partial(
        read_part,
        read=corpus.read,
        max_documents=params.max_documents,
        max_bytes=params.max_bytes,
    )
    inventory = Inventory()
    with engine.new_folder("parts") as folder:
        work = [Work(part.documents_file, part, part.size) for part in parts]
        found = list(engine.map(read, work, folder, description="download"))
        for values in found:
            inventory.add(values["inventory"])
        known = [folder / part.known_file for part in parts]
        num_bytes = lengths_of_distinct(
            np.concatenate([np.fromfile(path, KNOWN) for path in known])
        )
        if duplicates := int(np.count_nonzero(num_bytes == 0)):
            inventory.left_out[Reason.DUPLICATE] += duplicates
        files = [
            Rows(
                part.documents_file,
                FileRecord(**values["record"]),
                first=0,
                last=path.stat().st_size // KNOWN.itemsize,
            )
            for part, values, path in zip(parts, found, known, strict=True)
        ]
        ends = cuts(num_bytes, params.shard_bytes)
        shards = list(_rows_of_shards(files, num_bytes, ends))
        written = list(
            engine.map(
                partial(write_rows, folder=folder, num_bytes=num_bytes),
                [Work(rows.file_name, rows, rows.num_bytes) for rows in shards],
                directory,
                description="write documents",
            )
        )
    if len(shards) > 1:
        write_documents_manifest(
            directory,
            {
                rows.file_name: FileRecord(**record)
                for rows, record in zip(shards, written, strict=True)
            },
            {rows.file_name: rows.num_bytes for rows in shards},
        )
    num_documents = int(np.count_nonzero(num_bytes))
    return Gathered(num_documents, sum(rows.num_bytes for rows in shards), inventory)


def lengths_of_distinct(known: NDArray[Any]) -> NDArray[np.uint32]:
    """Return the length of each document, and 0 where an earlier one has its text.

    Args:
        known: The digest and the length of each document, in the order of the corpus.
    """
    num_bytes = known["num_bytes"].astype(np.uint32)
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
    num_bytes[candidates[order[1:]][digests[1:] == digests[:-1]]] = 0
    return num_bytes


def cuts(num_bytes: NDArray[np.uint32], shard_bytes: int) -> list[int]:
    """Return where each shard ends: one past its last document.

    A shard is as large as it may be; a document that is longer has one of its own.

    Raises:
        InputError: There would be more shards than there may be.
    """
    ends: list[int] = []
    in_all = num_bytes.cumsum(dtype=np.int64)
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


def _rows_of_shards(
    files: Sequence[Rows], num_bytes: NDArray[np.uint32], ends: Sequence[int]
) -> Iterator[ShardRows]:
    """Yield the documents of each shard.

    Args:
        files: All documents of each part.
        num_bytes: As `lengths_of_distinct` returns it.
        ends: As `cuts` returns it.
    """
    part_ends = [*accumulate(rows.last for rows in files)]
    for number, (first, end) in enumerate(zip([0, *ends], ends, strict=False)):
        in_parts = []
        for part in range(bisect_right(part_ends, first), len(files)):
            start = part_ends[part] - files[part].last
            if start >= end:
                break
            in_parts.append(
                files[part]._replace(
                    first=max(first - start, 0), last=min(end - start, files[part].last)
                )
            )
        size = int(num_bytes[first:end].sum(dtype=np.int64))
        yield ShardRows(Shard(number, len(ends)), first, in_parts, size)


def write_rows(
    rows: ShardRows,
    directory: Path,
    advance: Advance,
    *,
    folder: Path,
    num_bytes: NDArray[np.uint32],
) -> dict[str, Any]:
    """Write the documents of a shard; return the record of their file.

    Args:
        rows: Where the documents are.
        directory: The folder for the file.
        advance: Is called with the length of each document.
        folder: The folder of the parts.
        num_bytes: As `lengths_of_distinct` returns it.

    Raises:
        InputError: A part is missing or damaged.
    """

    def documents() -> Iterator[Document]:
        place = rows.first
        for of_part in rows.rows:
            path = folder / of_part.file
            wait_for(path, of_part.record, made_by="download")
            end = place + of_part.last - of_part.first
            lengths = num_bytes[place:end].tolist()
            found = read_rows(path, of_part.first, of_part.last)
            for names_and_text, length in zip(found, lengths, strict=True):
                if length:
                    yield Document(*names_and_text, length)
                    advance(length)
            place = end

    path = directory / rows.file_name
    write_shard(documents(), path)
    return asdict(record_of(path))
