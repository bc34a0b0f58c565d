"""Compare several cases of the same work, round by round.

No machine is ever quite at rest. So each round runs every case once, each case in a
process of its own: other load slows all of them alike, and the ratio of two cases in
the same round says more than the speed of either. Medians are reported.
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
from contextlib import contextmanager, suppress
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
PACKAGES = ("torch", "lightning-fabric", "transformers", "tokenizers", "numpy")

# A case calls this when it is prepared, and after the work of each round; the call
# returns when the case's next round begins.
EndRound = Callable[[], None]
# Prepares, calls `end_round`, works, calls `end_round`, works, calls `end_round`...
Case = Callable[[EndRound], object]


@dataclass(frozen=True)
class Timing:
    """The speed and memory of one case.

    Attributes:
        name: Of the case.
        per_second: Units of work per second, median of all rounds.
        slowest: Of all rounds.
        fastest: Of all rounds.
        ratio: To the first case: the median of the ratios within each round.
        preparation_seconds: Before its first round: imports, compilation, warming up.
        peak_bytes: The most memory that its process ever held (on a GPU: of the GPU).
        notes: Further columns of the table.
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
    """The time of some work that is compared with no other.

    Attributes:
        name: Of the work.
        seconds: Median of all rounds.
        fastest: Of all rounds.
        slowest: Of all rounds.
        notes: Further columns of the table.
    """

    name: str
    seconds: float
    fastest: float
    slowest: float
    notes: dict[str, float | str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, taken: Sequence[float], **notes: float | str) -> Duration:
        """Return the row for the seconds that each round took."""
        return cls(name, statistics.median(taken), min(taken), max(taken), notes)


@dataclass(frozen=True)
class Figures:
    """A row of figures that are counted or computed, not timed.

    Attributes:
        name: Of the row.
        notes: The figures, by column.
    """

    name: str
    notes: Mapping[str, float | str]


def compare(
    cases: Mapping[str, Case],
    *,
    amount: float,
    rounds: int,
    environments: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    with_children: bool = False,
    prepare_together: bool = False,
    skip_failed: bool = False,
) -> list[Timing]:
    """Run all cases once in each round, and return their timings, in the order given.

    Args:
        cases: By their names; functions that another process can import.
        amount: Units of work that a case does in a round.
        rounds: How many rounds are timed.
        environments: Variables that a case finds in its environment besides the common.
        with_children: Whether the memory of the largest process that a case started,
            and that has ended, is added to its own.
        prepare_together: Whether all cases prepare at the same time. They slow one
            another then, but compile on all cores of a machine that has many.
        skip_failed: Whether a case that ends before its last round is left out,
            instead of ending the comparison.

    Raises:
        RuntimeError: A case ended before its last round; or all did.
    """
    spawned = get_context("spawn")
    runners: dict[str, tuple[SpawnProcess, Connection]] = {}
    preparations = {}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    peaks = dict.fromkeys(cases, 0)

    def wait_for(name: str) -> float | None:
        try:
            taken, peaks[name] = runners[name][1].recv()
        except (EOFError, OSError):
            message = f"{name} has ended before its time"
            del seconds[name]
            if not (skip_failed and seconds):
                raise RuntimeError(message) from None
            print(message, file=sys.stderr)
            return None
        return float(taken)

    def wait_until_ready(name: str) -> None:
        if (taken := wait_for(name)) is not None:
            preparations[name] = taken
            print(f"{name}: ready after {taken:.1f} s", file=sys.stderr)

    try:
        for name, case in cases.items():
            ours, theirs = spawned.Pipe()
            process = spawned.Process(
                target=_run,
                args=(case, theirs, with_children),
                daemon=not with_children,
            )
            with _environment(environments.get(name, {})):
                process.start()
            theirs.close()
            runners[name] = (process, ours)
            if not prepare_together:  # they would slow one another
                wait_until_ready(name)
        for name in cases if prepare_together else ():
            wait_until_ready(name)
        for number in range(rounds):
            for name in list(seconds):
                with suppress(OSError):  # it has ended; `wait_for` notices
                    runners[name][1].send(True)
                if (taken := wait_for(name)) is not None:
                    seconds[name].append(taken)
            print(f"round {number + 1} of {rounds}", end="\r", file=sys.stderr)
    finally:
        for _, connection in runners.values():
            connection.close()
        for process, _ in runners.values():
            process.join(SECONDS_TO_END)
            process.terminate()
            process.join()

    first = next(iter(seconds.values()))
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
    """Add variables to the environment of the processes that start here."""
    before = dict(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run(case: Case, connection: Connection, with_children: bool) -> None:
    """Run a case in this process, and report how long each of its rounds takes."""
    began = time.perf_counter()

    def end_round() -> None:
        nonlocal began
        peak = peak_memory()  # on a GPU, waits until it is done
        if with_children:
            peak += _peak_of(resource.RUSAGE_CHILDREN)
        try:
            connection.send((time.perf_counter() - began, peak))
            connection.recv()
        except (EOFError, OSError):  # the comparison is over
            raise SystemExit from None
        began = time.perf_counter()

    case(end_round)


def peak_memory() -> int:
    """Return the peak memory of this process in bytes, once its GPU work is done."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated())
    return _peak_of(resource.RUSAGE_SELF)


def _peak_of(processes: int) -> int:
    kilobytes = resource.getrusage(processes).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)


def machine() -> dict[str, Any]:
    """Return the device, cores and package versions of this measurement."""
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
    settings: Mapping[str, Any],
    folder: Path = RESULTS,
) -> None:
    """Print a table, and write it as JSON for docs/performance.md.

    Args:
        name: The file's, without its ending.
        question: The question that the table answers.
        rows: The rows of the table.
        unit: The unit of the timed work, in the plural.
        settings: Shapes, precision and conventions that all cases share.
        folder: The folder of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The folder of the results does not belong to the command.
    options = " ".join(sys.argv[1:]).partition(" --out ")[0].split()
    options = [] if options[:1] == ["--out"] else options
    result = {
        "question": question,
        "command": " ".join(
            ["python", "-m", f"benchmarks.{name.split('-')[0]}", *options]
        ),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "unit": unit,
        "settings": dict(settings),
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
