"""The work of `split` on a shard: hashes of its groups, and its files of each split.

In between, all documents are assigned to splits, by these hashes and by their lengths.
"""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from toygpt.data.documents import DocumentsShard, check_shard, read_groups, read_ids
from toygpt.data.engines.engine import Engine, Work
from toygpt.data.engines.tasks import Advance
from toygpt.data.file_records import FileRecord, check_digests, check_in_worker
from toygpt.data.heldout_names import TEST_DOCUMENTS, lines_of
from toygpt.data.manifest import Manifest, Part
from toygpt.data.shards import Shard
from toygpt.data.split import SPLITS, TEST, Assignment, hash_of_group
from toygpt.data.token_files import TOKENS_AT_ONCE, TokenIds, map_tokens
from toygpt.pipeline import paths
from toygpt.pipeline.files import DigestedFile, new_file


class AssignedShard(NamedTuple):
    """A shard, and the split of each piece of its documents."""

    documents: DocumentsShard
    pieces: Assignment


def read_hashes(
    shards: Sequence[DocumentsShard], tokens: Manifest, engine: Engine, *, key: int
) -> NDArray[np.uint64]:
    """Return the hash of each document's group, after a check of all but the tokens.

    Raises:
        InputError: A file is not what `download`, or `tokenize`, wrote.
    """
    ends = {name: tokens.files[name] for name in tokens.files_of("ends")}
    check_digests(paths.TOKENS, ends, made_by="tokenize")
    hashes = engine.map(
        partial(hash_groups, key=key),
        [Work(shard.file_name, shard, shard.num_bytes) for shard in shards],
        description="read groups",
    )
    return np.frombuffer(b"".join(map(b64decode, hashes)), np.uint64)


def hash_groups(
    documents: DocumentsShard, directory: Path, advance: Advance, *, key: int
) -> str:
    """Check the documents of a shard; no file is written.

    Returns:
        The hash of each document's group, in Base64.

    Raises:
        InputError: They are not what `download` wrote.
    """
    check_shard(paths.DOCUMENTS, documents)
    groups = read_groups(paths.DOCUMENTS, documents.shard)
    hashes = np.fromiter((hash_of_group(it, key=key) for it in groups), np.uint64)
    advance(documents.num_bytes)
    return b64encode(hashes.tobytes()).decode()


def write_splits(
    shards: Sequence[DocumentsShard],
    tokens: Manifest,
    assignment: Assignment,
    engine: Engine,
    directory: Path,
    bytes_of_token: NDArray[np.int64],
) -> tuple[dict[str, Part], dict[str, FileRecord]]:
    """Copy each piece to the file of its split, in the order of the corpus.

    What a shard has of a split goes to that shard's file of the split: shard 3's to
    train-00003.bin, validation-00003.bin and test-00003.bin. The names of the test's
    documents are in one file. `bytes_of_token` says how many bytes of text each token
    id stands for.

    Returns:
        How much each split holds, where a part of a document counts as one document;
        and the record of each file.

    Raises:
        InputError: The tokens are not what `tokenize` wrote.
    """
    work, start = [], 0
    for documents, size in zip(shards, tokens.shard_sizes("tokens"), strict=True):
        shard = AssignedShard(documents, assignment.between(start, start + size))
        work.append(Work(documents.file_name, shard, documents.num_bytes))
        start += size
    split = partial(split_shard, tokens=tokens, bytes_of_token=bytes_of_token)
    counts = np.zeros((2, len(SPLITS)), dtype=np.int64)  # of tokens, and of bytes
    files: dict[str, FileRecord] = {}
    copied = engine.map(split, work, directory, description="split")
    with new_file(directory / TEST_DOCUMENTS) as names:
        for values in copied:
            counts += values["counts"]
            for name, record in values["files"].items():
                files[name] = FileRecord(**record)
            names.write(values["test_documents"].encode())
    files = dict(sorted(files.items()))
    files[TEST_DOCUMENTS] = FileRecord(names.num_bytes, names.sha256)
    return sizes_of(assignment, counts), files


def sizes_of(assignment: Assignment, counts: NDArray[np.int64]) -> dict[str, Part]:
    """Return how much each split holds, by the counts of its tokens and bytes."""
    documents = np.bincount(assignment.splits, minlength=len(SPLITS))
    sizes = np.stack([counts[0], documents, counts[1]], axis=1).tolist()
    return {name: Part(*size) for name, size in zip(SPLITS, sizes, strict=True)}


def split_shard(
    shard: AssignedShard,
    directory: Path,
    advance: Advance,
    *,
    tokens: Manifest,
    bytes_of_token: NDArray[np.int64],
) -> dict[str, Any]:
    """Check the tokens of a shard, and copy them to the files of its splits.

    Returns:
        The tokens, and the bytes, of each split; the record of each file; and a line
        for each document in the test split.

    Raises:
        InputError: The tokens are not what `tokenize` wrote.
    """
    number = shard.documents.shard
    path = paths.TOKENS / number.name("tokens.bin")
    check_in_worker(path, tokens.files[path.name], made_by="tokenize")
    counts, files = copy_tokens(
        map_tokens(path, token_type=tokens.token_type),
        shard.pieces,
        directory,
        number,
        bytes_of_token,
        tokens.end_of_text_id,
    )
    ids, groups = (it(paths.DOCUMENTS, number) for it in (read_ids, read_groups))
    names = zip(ids, groups, strict=True)
    advance(shard.documents.num_bytes)
    return {
        "counts": counts.tolist(),
        "files": {name: asdict(record) for name, record in files.items()},
        "test_documents": lines_of(compress(names, shard.pieces.documents_in(TEST))),
    }


def copy_tokens(
    tokens: TokenIds,
    pieces: Assignment,
    directory: Path,
    shard: Shard,
    bytes_of_token: NDArray[np.int64],
    end_of_text_id: int,
) -> tuple[NDArray[np.int64], dict[str, FileRecord]]:
    """Copy the pieces of a shard to the files of their splits.

    A piece whose document continues gets an end of text of its own, so that no sequence
    runs from it into the next document of its split.

    Returns:
        The tokens, and the bytes, of each split; and the record of each file.
    """
    counts = np.zeros((2, len(SPLITS)), dtype=np.int64)
    splits, names = pieces.splits, [shard.name(f"{split}.bin") for split in SPLITS]
    last_of_run = np.append(np.flatnonzero(np.diff(splits)), len(splits) - 1)
    end_of_text = np.array([end_of_text_id], dtype=tokens.dtype)
    with ExitStack() as stack:
        files = [
            DigestedFile(stack.enter_context((directory / name).open("wb")))
            for name in names
        ]
        start = 0
        for split, end, is_cut_there in zip(
            splits[last_of_run].tolist(),
            pieces.ends[last_of_run].tolist(),
            pieces.is_cut[last_of_run].tolist(),
            strict=True,
        ):
            for first in range(start, end, TOKENS_AT_ONCE):
                piece = tokens[first : min(first + TOKENS_AT_ONCE, end)]
                files[split].write(piece.data)
                counts[:, split] += len(piece), bytes_of_token[piece].sum()
            if is_cut_there:
                files[split].write(end_of_text.data)
                counts[0, split] += 1
            start = end
        records = [FileRecord(file.num_bytes, file.sha256) for file in files]
    return counts, dict(zip(names, records, strict=True))
