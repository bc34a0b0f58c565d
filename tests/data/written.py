"""What `download` and `split` write, made of what is in memory."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toygpt.data.corpus import Document
from toygpt.data.documents import (
    DOCUMENTS_FILE,
    write_documents_manifest,
    write_shard,
)
from toygpt.data.file_records import record_files
from toygpt.data.gathering import cuts
from toygpt.data.manifest import Part
from toygpt.data.shards import Shard
from toygpt.data.split import SPLITS, Assignment
from toygpt.data.splitting import copy_tokens, sizes_of
from toygpt.data.token_files import TokenIds


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


def write_splits(
    shards: Sequence[TokenIds],
    assignment: Assignment,
    directory: Path,
    bytes_of_token: NDArray[np.int64],
    end_of_text_id: int,
) -> dict[str, Part]:
    """Copy the tokens of shards to the files of their splits; return their sizes."""
    counts, start = np.zeros((2, len(SPLITS)), np.int64), 0
    for number, tokens in enumerate(shards):
        pieces = assignment.between(start, start + len(tokens))
        shard = Shard(number, len(shards))
        counts += copy_tokens(
            tokens, pieces, directory, shard, bytes_of_token, end_of_text_id
        )[0]
        start += len(tokens)
    return sizes_of(assignment, counts)
