"""What a check says: a sentence for what is well, a `Finding` for what is not."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    problem: str
    remedy: str  # a command to paste, in the project's folder
    mend: Callable[[], object] | None = None  # does it, where nothing can be lost


Line = Finding | str
Check = Callable[[Path], Iterator[Line]]


def mendable(root: Path, problem: str, remedy: str) -> Finding:
    """Return a finding that is mended by doing just what its remedy says."""
    return Finding(problem, remedy, partial(_run, root, remedy))


def _run(folder: Path, command: str) -> None:
    """Do what a remedy says."""
    done = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(done.stderr.strip())


def number_of(number: int, noun: str) -> str:
    """Return `1 core` or `2 cores`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def readable_size(num_bytes: float) -> str:
    """Return `1.5 MB` for 1,500,000."""
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= length:
            return f"{num_bytes / length:,.1f} {unit}"
    return f"{num_bytes:.0f} bytes"
