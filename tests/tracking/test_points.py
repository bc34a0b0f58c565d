"""A point is on the disk before the next step, or not at all."""

import errno
import math
import os
from pathlib import Path

import pytest

from tests.tracking.trackers import disk_full_after, record_in
from toygpt.pipeline.errors import InputError
from toygpt.tracking.points import count_points, read_new_points
from toygpt.tracking.record import Record


@pytest.fixture
def record(record: Record) -> Record:
    """Return the record of a training of one step."""
    record.append({"loss": 3.0}, step=5)
    return record


@pytest.fixture
def curves(record: Record) -> Path:
    return record.folder / "metrics.jsonl"


def metrics_in(path: Path) -> list[dict[str, float]]:
    return [point.metrics for point in read_new_points(path, 0)[0]]


def test_a_point_is_on_disk_before_the_next_step_begins(
    record: Record, curves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[list[dict[str, float]]] = []
    monkeypatch.setattr(os, "fsync", lambda _: flushed.append(metrics_in(curves)))

    record.append({"loss": 2.0}, step=6)

    assert flushed == [[{"loss": 3.0}, {"loss": 2.0}]]


@pytest.mark.parametrize("torn", [b'{"step": 6, "ti', b"{", b"\0" * 40])
@pytest.mark.parametrize("num_whole", [0, 1])
def test_a_line_that_a_crash_cut_short_is_dropped_and_the_next_is_whole(
    tmp_path: Path, curves: Path, torn: bytes, num_whole: int
) -> None:
    whole = curves.read_bytes() * num_whole
    curves.write_bytes(whole + torn)

    found = record_in(tmp_path)
    assert count_points(curves) == num_whole
    with found.locked():
        found.append({"loss": 2.0}, step=6)

    assert len(found.points) == num_whole + 1
    assert curves.read_bytes().startswith(whole + b'{"step": 6')
    assert metrics_in(curves) == [*[{"loss": 3.0}] * num_whole, {"loss": 2.0}]


def test_a_full_disk_is_an_error_and_leaves_the_file_whole(
    record: Record, curves: Path
) -> None:
    """The disk has room for half a line; later there is more."""
    whole = curves.read_bytes()
    with disk_full_after(len(whole) + 20):
        with pytest.raises(OSError) as caught:
            record.append({"loss": 2.0}, step=6)
        left = curves.read_bytes()

    record.append({"loss": 2.0}, step=6)

    assert caught.value.errno == errno.EFBIG, "the fault fired"
    assert left == whole
    assert metrics_in(curves) == [{"loss": 3.0}, {"loss": 2.0}]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_are_refused(
    record: Record, curves: Path, value: float
) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.append({"loss": value}, step=6)

    record.append({"loss": 1.0}, step=6)
    assert metrics_in(curves) == [{"loss": 3.0}, {"loss": 1.0}]


@pytest.mark.parametrize("line", ["not a point", "{}", "[]"])
def test_damaged_curves_are_named(record: Record, curves: Path, line: str) -> None:
    curves.write_text(f"{line}\n")

    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged"):
        Record(record.folder)
