"""Chunks of a corpus as it was found: each is read and cleaned by one worker."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from toygpt.data.corpus import Document, RawDocument, clean, up_to
from toygpt.data.documents import write_shard
from toygpt.data.engines.tasks import Advance
from toygpt.data.file_records import record_of
from toygpt.data.inventory import Inventory
from toygpt.data.token_files import batched

# How a text is known again: its digest, in two numbers, and its length in UTF-8.
KNOWN = np.dtype([("high", "<u8"), ("low", "<u8"), ("num_bytes", "<u4")])

Read = Callable[[Any, Inventory], Iterator[RawDocument]]


class Chunk(NamedTuple):
    """Some files of a corpus, one after another."""

    number: int  # counted from 0
    files: Iterable[Any]
    name: str = "corpus"  # for messages
    size: int = 0  # of the files in bytes, as they are stored, as far as it is known

    @property
    def documents_file(self) -> str:
        """The name of the file that gets its documents."""
        return f"chunk-{self.number:05}.parquet"

    @property
    def known_file(self) -> str:
        """The name of the file that gets the digests and lengths of its documents."""
        return f"chunk-{self.number:05}.known"


class FoundCorpus(NamedTuple):
    """A corpus as it was found, before any of it is read."""

    files: Iterable[Any]  # in order, as they are found
    read: Read  # yields the documents of files

    def chunks(self, *, chunk_bytes: int, has_limit: bool) -> list[Chunk]:
        """Return its chunks of so many bytes, or a little more: a file is in one chunk.

        The bytes are those of the files as they are stored; a compressed one has more
        text.

        Where a corpus with a limit ends depends on all that comes before. So it is one
        chunk, and no file is looked for, or fetched, before the earlier ones are read.
        """
        if has_limit:
            return [Chunk(0, self.files)]
        groups = batched(self.files, size=chunk_bytes, length=lambda file: file.size)
        return [
            Chunk(number, files, _name_of(files), sum(file.size for file in files))
            for number, files in enumerate(groups)
        ] or [Chunk(0, [])]


def _name_of(files: Sequence[Any]) -> str:
    first, last = files[0].name, files[-1].name
    return first if len(files) == 1 else f"{len(files):,} files from {first} to {last}"


def read_chunk(
    chunk: Chunk,
    directory: Path,
    advance: Advance,
    *,
    read: Read,
    max_documents: int | None,
    max_bytes: int | None,
) -> dict[str, Any]:
    """Write the documents of a chunk, each text once, and by what they are known again.

    They end before there are more documents or bytes than a limit; None means no limit.

    Returns:
        How many documents there are, the record of their file, and the inventory.

    Raises:
        InputError: A file is missing or damaged.
    """
    inventory = Inventory()
    files = _with_progress(chunk.files, advance)
    cleaned = clean(read(files, inventory), inventory)
    path, known_path = directory / chunk.documents_file, directory / chunk.known_file
    with known_path.open("wb") as known:

        def documents() -> Iterator[Document]:
            for document, digest in up_to(
                cleaned, max_documents=max_documents, max_bytes=max_bytes
            ):
                known.write(digest + document.num_bytes.to_bytes(4, "little"))
                yield document

        write_shard(documents(), path)
    return {
        "documents": known_path.stat().st_size // KNOWN.itemsize,
        "record": asdict(record_of(path)),
        "inventory": inventory.values(),
    }


def _with_progress(files: Iterable[Any], advance: Advance) -> Iterator[Any]:
    for file in files:
        yield file
        advance(file.size)
