"""What `download` and `split` write, made of what is in memory."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.tiny import runtime_params
from toygpt.data.chunks import FoundCorpus
from toygpt.data.corpus import RawDocument
from toygpt.data.engines.engine import Engine
from toygpt.data.gathering import gather
from toygpt.data.manifest import Part
from toygpt.data.shards import Shard
from toygpt.data.split import SPLITS, Assignment
from toygpt.data.splitting import copy_tokens, sizes_of
from toygpt.data.token_files import TokenIds
from toygpt.pipeline.params import DownloadParams


def document(name: str, group: str, text: str) -> RawDocument:
    return RawDocument(name, group, text.encode())


def write_documents(
    documents: Iterable[RawDocument], directory: Path, *, shard_bytes: int = 10**9
) -> None:
    """Gather documents into a folder, as one chunk; several shards need a project."""
    corpus = FoundCorpus([], lambda files, inventory: iter(documents))
    params = DownloadParams(max_documents=None, max_bytes=None, shard_bytes=shard_bytes)
    with Engine("download", runtime_params(data_workers=1)) as engine:
        gather(corpus, engine, directory, params)


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
