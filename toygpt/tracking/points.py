"""The points of a training's curves: `metrics.jsonl`, one line each.

A line is on the disk before the next one begins. What a crash cut short has no end of
line, and is dropped.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import naming, new_file

# Values by their step and name; results of the whole run have the step None.
Known = dict[tuple[int | None, str], float]


@dataclass(frozen=True)
class Point:
    """Metrics of one step; without a step, results of the whole run."""

    step: int | None
    time: float  # seconds since 1970
    metrics: dict[str, float]


def known_of(points: Iterable[Point]) -> Known:
    """Return each value under its step and its name."""
    return {
        (point.step, name): value
        for point in points
        for name, value in point.metrics.items()
    }


def curves_of(points: Iterable[Point]) -> list[Point]:
    """Return the points without the results of the whole run."""
    return [point for point in points if point.step is not None]


def _line_of(point: Point) -> bytes:
    return (json.dumps(asdict(point), allow_nan=False) + "\n").encode()


def write_points(path: Path, points: Iterable[Point]) -> None:
    """Write a whole file of points, or nothing."""
    with new_file(path) as file:
        for point in points:
            file.write(_line_of(point))


def append_point(path: Path, point: Point) -> None:
    """Append a line and flush it to the disk; half a line is taken back.

    Raises:
        OSError: The line cannot be written.
        ValueError: A metric is NaN or infinite.
    """
    line = _line_of(point)
    size = path.stat().st_size if path.exists() else 0
    try:
        with naming(path), path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            os.truncate(path, size)
        raise


def read_new_points(path: Path, start: int) -> tuple[list[Point], int]:
    """Return the points from a byte on, and the byte at which they end.

    A last line without an end is not a point.

    Raises:
        InputError: A line is damaged.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            whole, end, _ = file.read().rpartition(b"\n")
        points = [Point(**json.loads(line)) for line in whole.splitlines()]
    except FileNotFoundError:
        return [], start
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({error!r}): remove the lines that are not JSON"
        ) from None
    return points, start + len(whole) + len(end)


def count_points(path: Path) -> int:
    """Return the number of points, without parsing them."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def cut_torn_line(path: Path) -> None:
    """Remove a last line that a crash cut short: the next must begin on its own."""
    if path.is_file():
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)
