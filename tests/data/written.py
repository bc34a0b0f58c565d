"""Documents as `download` writes them, from memory."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from toygpt.data.corpus import Document
from toygpt.data.documents import (
    DOCUMENTS_FILE,
    write_documents_manifest,
    write_shard,
)
from toygpt.data.file_records import record_files
from toygpt.data.gathering import cuts
from toygpt.data.shards import Shard


def document(name: str, group: str, text: str) -> Document:
    return Document(name, group, text, len(text.encode()))


def write_documents(
    documents: Iterable[Document], directory: Path, *, shard_bytes: int = 10**9
) -> None:
    """Cut documents into shards, and write these into a folder."""
    left = list(documents)
    ends = cuts(np.array([it.num_bytes for it in left], np.uint32), shard_bytes)
    text_bytes = {}
    for number, (first, end) in enumerate(zip([0, *ends], ends, strict=False)):
        name = Shard(number, len(ends)).name(DOCUMENTS_FILE)
        write_shard(left[first:end], directory / name)
        text_bytes[name] = sum(it.num_bytes for it in left[first:end])
    if len(ends) > 1:
        files = record_files(directory, "*.parquet")
        write_documents_manifest(directory, files, text_bytes)
