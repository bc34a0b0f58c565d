"""Measure several ways to do the same, in turns.

No machine is ever quite at rest. So the ways take turns, each in a process of its own:
whatever else goes on slows all of them alike, and the ratio of two ways in the same
turn says more than the speed of either. Reported are medians.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any

RESULTS = Path(__file__).parent / "results"
SECONDS_TO_END = 10
PACKAGES = ("torch", "lightning", "transformers", "tokenizers", "numpy")

# What a way calls after each portion of its work; it returns at the way's next turn.
Lap = Callable[[], None]
# Prepares itself, calls the lap, works, calls the lap, works, calls the lap...
Way = Callable[[Lap], object]


@dataclass(frozen=True)
class Timing:
    """What came of one way.

    Attributes:
        name: Of the way.
        per_second: Units of work per second, median of all turns.
        slowest: Of all turns.
        fastest: Of all turns.
        ratio: To the first way: the median of the ratios within each turn.
        preparation_seconds: Before its first turn: imports, compilation, warming up.
        peak_bytes: The most memory that its process ever held (on a GPU: of the GPU).
        notes: Whatever else there is to say, by column.
    """

    name: str
    per_second: float
    slowest: float
    fastest: float
    ratio: float
    preparation_seconds: float
    peak_bytes: int
    notes: dict[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Duration:
    """How long something took that is compared with nothing.

    Attributes:
        name: Of what was done.
        seconds: Median of all turns.
        fastest: Of all turns.
        slowest: Of all turns.
        notes: Whatever else there is to say, by column.
    """

    name: str
    seconds: float
    fastest: float
    slowest: float
    notes: dict[str, float | str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, taken: Sequence[float], **notes: float | str) -> Duration:
        """Return the row for the seconds that each turn took."""
        return cls(name, statistics.median(taken), min(taken), max(taken), notes)


@dataclass(frozen=True)
class Figures:
    """What is counted or computed, not timed.

    Attributes:
        name: Of what it is about.
        notes: The figures, by column.
    """

    name: str
    notes: Mapping[str, float | str]


def race(
    ways: Mapping[str, Way],
    *,
    amount: float,
    turns: int,
    environments: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    with_children: bool = False,
) -> list[Timing]:
    """Let all ways take turns, and return what came of each, in the order given.

    Args:
        ways: By their names; functions that another process can import.
        amount: Units of work in a portion.
        turns: How many portions of each are timed.
        environments: What a way finds in its environment beside what all find.
        with_children: Whether the memory of the largest process that a way started, and
            that has ended, is added to its own.

    Raises:
        RuntimeError: A way ended before its last turn.
    """
    spawned = get_context("spawn")
    runners: dict[str, tuple[SpawnProcess, Connection]] = {}
    preparations = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks = dict.fromkeys(ways, 0)

    def wait_for(name: str) -> float:
        try:
            taken, peaks[name] = runners[name][1].recv()
        except EOFError:
            raise RuntimeError(f"{name} has ended before its time") from None
        return float(taken)

    try:
        for name, way in ways.items():  # one by one: they would slow one another
            ours, theirs = spawned.Pipe()
            process = spawned.Process(
                target=_run, args=(way, theirs, with_children), daemon=not with_children
            )
            with _environment(environments.get(name, {})):
                process.start()
            theirs.close()
            runners[name] = (process, ours)
            preparations[name] = wait_for(name)
            print(f"{name}: ready after {preparations[name]:.1f} s", file=sys.stderr)
        for turn in range(turns):
            for name in ways:
                runners[name][1].send(True)
                seconds[name].append(wait_for(name))
            print(f"turn {turn + 1} of {turns}", end="\r", file=sys.stderr)
    finally:
        for _, connection in runners.values():
            connection.close()
        for process, _ in runners.values():
            process.join(SECONDS_TO_END)
            process.terminate()
            process.join()

    first = seconds[next(iter(ways))]
    return [
        Timing(
            name=name,
            per_second=amount / statistics.median(taken),
            slowest=amount / max(taken),
            fastest=amount / min(taken),
            ratio=statistics.median(a / b for a, b in zip(first, taken, strict=True)),
            preparation_seconds=preparations[name],
            peak_bytes=peaks[name],
        )
        for name, taken in seconds.items()
    ]


@contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    """Let what starts here find some more in its environment."""
    before = dict(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run(way: Way, connection: Connection, with_children: bool) -> None:
    """Run a way in this process, and report how long each portion takes."""
    began = time.perf_counter()

    def lap() -> None:
        nonlocal began
        peak = _peak_memory()  # on a GPU, waits until it is done
        if with_children:
            peak += _peak_of(resource.RUSAGE_CHILDREN)
        try:
            connection.send((time.perf_counter() - began, peak))
            connection.recv()
        except (EOFError, OSError):  # the race is over
            raise SystemExit from None
        began = time.perf_counter()

    way(lap)


def _peak_memory() -> int:
    """Return the most bytes that this process held, after all its work is done."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated())
    return _peak_of(resource.RUSAGE_SELF)


def _peak_of(whom: int) -> int:
    kilobytes = resource.getrusage(whom).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)


def machine() -> dict[str, Any]:
    """Return on what this is measured, and with which versions."""
    import torch

    from toygpt.model.device import device_for, device_name

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "device": device_name(device_for("auto")),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
    }


def report(
    name: str,
    question: str,
    rows: Sequence[Timing] | Sequence[Duration] | Sequence[Figures],
    *,
    unit: str = "",
    facts: Mapping[str, Any],
    folder: Path = RESULTS,
) -> None:
    """Print a table, and write it as JSON for docs/performance.md.

    Args:
        name: Of the file, without its ending.
        question: That the table answers.
        rows: Of the table.
        unit: Of the work of timings, in the plural.
        facts: What was the same for all ways: shapes, precision, convention.
        folder: Where the file goes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The place of the results is no part of how to get them.
    options = " ".join(sys.argv[1:]).partition(" --out ")[0].split()
    options = [] if options[:1] == ["--out"] else options
    result = {
        "question": question,
        "command": " ".join(
            ["python", "-m", f"benchmarks.{name.split('-')[0]}", *options]
        ),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "unit": unit,
        "facts": dict(facts),
        "machine": machine(),
        "rows": [asdict(row) for row in rows],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))


def table(result: Mapping[str, Any]) -> str:
    """Return a result as a table in Markdown."""
    rows = result["rows"]
    notes = list(dict.fromkeys(key for row in rows for key in row["notes"]))
    cells: Callable[[Mapping[str, Any]], list[str]]
    if "per_second" in rows[0]:
        titles = [f"{result['unit']}/s", "slowest to fastest"]
        titles += ["ratio", "peak memory", "ready after"]
        cells = _cells_of_timing
    elif "seconds" in rows[0]:
        titles, cells = ["seconds", "fastest to slowest"], _cells_of_duration
    else:
        titles, cells = [], lambda row: [row["name"]]
    lines = [["", *titles, *notes]]
    lines.append(["---", *["---:" for _ in lines[0][1:]]])
    for row in rows:
        lines.append(
            [*cells(row), *[str(row["notes"].get(note, "")) for note in notes]]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells_of_timing(row: Mapping[str, Any]) -> list[str]:
    return [
        row["name"],
        f"{row['per_second']:,.0f}",
        f"{row['slowest']:,.0f} to {row['fastest']:,.0f}",
        f"{row['ratio']:.2f}",
        f"{row['peak_bytes'] / 2**30:.2f} GiB",
        f"{row['preparation_seconds']:.0f} s",
    ]


def _cells_of_duration(row: Mapping[str, Any]) -> list[str]:
    return [
        row["name"],
        f"{row['seconds']:,.2f}",
        f"{row['fastest']:,.2f} to {row['slowest']:,.2f}",
    ]
