"""Read the runs that Weights & Biases has on disk: it may have lost what was logged.

A `.wandb` file is a log in LevelDB's format
(https://github.com/google/leveldb/blob/main/doc/log_format.md) behind a header of its
own. Each record of the log is a protocol buffer.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK_SIZE = 32 * 1024
MAGIC = b":W&B"
HEADER_SIZE = 7
PIECE_HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class WandbRun:
    """An offline run, as it would be synced."""

    run_id: str = ""
    project: str = ""
    name: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, set[str]] = field(default_factory=dict)  # files by artifact
    exit_code: int | None = None


def read_runs(root: Path, run_id: str = "*") -> list[WandbRun]:
    """Return the runs in `root`/wandb, one for each time that a run was opened.

    Args:
        root: The project that the user works in.
        run_id: Of one run; by default, all are read.
    """
    # The folder's name ends with the id, or with a number behind it if the run has been
    # opened twice in one second.
    files = (root / "wandb").glob(f"*run-*/run-{run_id}.wandb")
    return [
        _read(path) for path in sorted(files, key=lambda path: path.stat().st_mtime)
    ]


def _read(path: Path) -> WandbRun:
    from wandb.proto.wandb_internal_pb2 import Record

    run = WandbRun()
    for data in _records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.run_id = record.run.run_id
            run.project = record.run.project
            run.name = record.run.display_name
            run.tags = list(record.run.tags)
            run.config |= _values(record.run.config.update)
        elif kind == "config":
            run.config |= _values(record.config.update)
        elif kind == "history":
            run.history.append(_values(record.history.item))
        elif kind == "summary":
            run.summary |= _values(record.summary.update)
        elif kind == "artifact":
            files = {entry.path for entry in record.artifact.manifest.contents}
            run.artifacts[record.artifact.name] = files
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _values(items: Iterable[Any]) -> dict[str, Any]:
    """Return the items by their names, but W&B's own, which begin with `_`."""
    named = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for item in items
    }
    return {name: value for name, value in named.items() if not name.startswith("_")}


def _records(data: bytes) -> Iterator[bytes]:
    """Yield the records, put together from pieces that cross no block's end.

    The last whole record is the end: W&B's process may have been killed.
    """
    if not data.startswith(MAGIC):
        return
    place = HEADER_SIZE
    record = b""
    while True:
        left_in_block = BLOCK_SIZE - place % BLOCK_SIZE
        if left_in_block < PIECE_HEADER.size:
            place += left_in_block
        if place + PIECE_HEADER.size > len(data):
            return
        checksum, length, kind = PIECE_HEADER.unpack_from(data, place)
        place += PIECE_HEADER.size
        piece = data[place : place + length]
        if zlib.crc32(bytes([kind]) + piece) != checksum:
            return
        record = piece if kind in (FULL, FIRST) else record + piece
        place += length
        if kind in (FULL, LAST):
            yield record
