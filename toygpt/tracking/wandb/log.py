"""The log of a W&B run on disk, a `.wandb` file: its records, in their order.

It is a log in LevelDB's format
(https://github.com/google/leveldb/blob/main/doc/log_format.md) behind a header of its
own. Each record of the log is a protocol buffer.
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from toygpt.pipeline.files import new_file

BLOCK_SIZE = 32 * 1024
MAGIC = b":W&B"
HEADER = MAGIC + b"\xe1\xbe\x00"  # with a number that W&B looks for, and a version
PIECE_HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
KINDS = {  # of a piece: whether it is the first of its record, and the last
    (True, True): FULL,
    (True, False): FIRST,
    (False, False): MIDDLE,
    (False, True): LAST,
}


def read_records(path: Path) -> Iterator[Any]:
    """Yield the records, each a protocol buffer of W&B's.

    The last whole record is the end: W&B's process may have been killed.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    for data in _join(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        yield record


def write_records(
    path: Path, records: Iterable[Any], *, before: Callable[[], None] = lambda: None
) -> None:
    """Write a whole log, or nothing.

    Args:
        path: Of the log, which may be there: it is replaced in one step.
        records: Protocol buffers of W&B's.
        before: Called just before that step.
    """
    with new_file(path) as file:
        file.write(HEADER)
        place = len(HEADER)
        for record in records:
            for piece in _split(record.SerializeToString(), place):
                file.write(piece)
                place += len(piece)
        before()


def _join(data: bytes) -> Iterator[bytes]:
    """Yield the records, put together from pieces that cross no block's end."""
    if not data.startswith(MAGIC):
        return
    place = len(HEADER)
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
        if _checksum(kind, piece) != checksum:
            return
        record = piece if kind in (FULL, FIRST) else record + piece
        place += length
        if kind in (FULL, LAST):
            yield record


def _split(record: bytes, place: int) -> Iterator[bytes]:
    """Yield a record in pieces that cross no block's end, from a place in the file."""
    is_first = True
    while is_first or record:
        left_in_block = BLOCK_SIZE - place % BLOCK_SIZE
        if left_in_block < PIECE_HEADER.size:
            yield bytes(left_in_block)
            place, left_in_block = place + left_in_block, BLOCK_SIZE
        size = left_in_block - PIECE_HEADER.size
        piece, record = record[:size], record[size:]
        kind = KINDS[is_first, not record]
        yield PIECE_HEADER.pack(_checksum(kind, piece), len(piece), kind) + piece
        place += PIECE_HEADER.size + len(piece)
        is_first = False


def _checksum(kind: int, piece: bytes) -> int:
    return zlib.crc32(bytes([kind]) + piece)
