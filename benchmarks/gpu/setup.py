"""What each part of the GPU's benchmark is given: sizes, and where its tables go."""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import (
    Case,
    Duration,
    Figures,
    Timing,
    compare,
    peak_memory,
    report,
)


@dataclass(frozen=True)
class Setup:
    """The options of the command, for the parts.

    Attributes:
        is_dry_run: Whether all sizes are tiny, nothing is compiled by a C compiler, and
            each case runs in the process of its part: a search for mistakes, in which
            the figures mean nothing.
        text: The folder of texts to learn from; None: Python's own sources.
        tables: The folder that gets a JSON file for each table.
    """

    is_dry_run: bool
    text: Path | None
    tables: Path

    def compare(
        self, cases: Mapping[str, Case], *, amount: float, rounds: int, **options: Any
    ) -> list[Timing]:
        """Compare cases, as `benchmarks.measure.compare`; those that fail are left out.

        All prepare at the same time: they compile on different cores.
        """
        if self.is_dry_run:
            return compare_here(cases, amount=amount, rounds=1)
        return compare(
            cases,
            amount=amount,
            rounds=rounds,
            prepare_together=True,
            skip_failed=True,
            **options,
        )

    def attempt(self, works: Mapping[str, Callable[[], None]]) -> None:
        """Do one work after the other; one that fails costs no other.

        Raises:
            RuntimeError: Some have failed; all others are done.
        """
        errors = []
        for name, work in works.items():
            try:
                work()
            except Exception as error:
                if self.is_dry_run:
                    raise
                traceback.print_exc()
                errors.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
        if errors:
            raise RuntimeError("; ".join(errors))

    def report(
        self,
        name: str,
        question: str,
        rows: Sequence[Timing] | Sequence[Duration] | Sequence[Figures],
        *,
        unit: str = "",
        **settings: Any,
    ) -> None:
        """Print a table, and write it."""
        report(
            f"gpu-{name}",
            question,
            rows,
            unit=unit,
            settings=settings,
            folder=self.tables,
        )


class _EnoughError(Exception):
    """The last round of a case is over."""


def compare_here(
    cases: Mapping[str, Case], *, amount: float, rounds: int
) -> list[Timing]:
    """Run the cases one after the other in this process, and return their timings."""
    timings: list[Timing] = []
    for name, case in cases.items():
        times = [time.perf_counter()]

        def end_round(times: list[float] = times) -> None:
            peak_memory()  # on a GPU, waits until it is done
            times.append(time.perf_counter())
            if len(times) > rounds + 1:
                raise _EnoughError

        with suppress(_EnoughError):
            case(end_round)
        speeds = sorted(amount / (end - start) for start, end in pairwise(times[1:]))
        speed = median(speeds)
        timings.append(
            Timing(
                name=name,
                per_second=speed,
                slowest=speeds[0],
                fastest=speeds[-1],
                ratio=speed / timings[0].per_second if timings else 1.0,
                preparation_seconds=times[1] - times[0],
                peak_bytes=peak_memory(),
            )
        )
    return timings


def failed(cases: Mapping[str, Case], timings: Sequence[Timing]) -> dict[str, str]:
    """Return the settings that name the cases without a timing, if there are any."""
    names = set(cases) - {timing.name for timing in timings}
    return {"failed": ", ".join(sorted(names))} if names else {}
