"""A log is written as W&B writes it: in pieces that cross no block's end."""

from pathlib import Path
from typing import Any

import pytest

from toygpt.tracking.wandb.log import (
    BLOCK_SIZE,
    HEADER,
    PIECE_HEADER,
    read_records,
    write_records,
)

ROOM = BLOCK_SIZE - len(HEADER) - PIECE_HEADER.size  # in the first block


def record_of(num_bytes: int) -> Any:
    """Return a record of that size."""
    from wandb.proto.wandb_internal_pb2 import Record

    record = Record(uuid="x" * max(0, num_bytes - 8))
    while record.ByteSize() < num_bytes:
        record.uuid += "x"
    return record


@pytest.mark.parametrize("rest", [*range(9), 100])
def test_records_of_any_size_are_read_as_they_were_written(
    tmp_path: Path, rest: int
) -> None:
    """The rest of the first block has room for a piece, an empty one, or none."""
    records = [record_of(ROOM - rest), *map(record_of, (40, 3 * BLOCK_SIZE, 40))]

    write_records(tmp_path / "log", records)

    assert list(read_records(tmp_path / "log")) == records


def test_a_failure_before_the_log_is_replaced_leaves_it_as_it_was(
    tmp_path: Path,
) -> None:
    write_records(tmp_path / "log", [record_of(40)])

    def fail() -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        write_records(tmp_path / "log", [record_of(50)], before=fail)

    assert list(read_records(tmp_path / "log")) == [record_of(40)]
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
