"""The results of a check: a sentence if all is well, a `Finding` if it is not."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    problem: str
    command: str  # to fix it: the user may paste it in the project's folder
    fix: Callable[[], object] | None = None  # for `--fix`, where nothing can be lost


Line = Finding | str
Check = Callable[[Path], Iterator[Line]]


def fixable(root: Path, problem: str, command: str) -> Finding:
    """Return a finding that `--fix` fixes by running its command."""
    return Finding(problem, command, partial(_run, root, command))


def _run(folder: Path, command: str) -> None:
    """Run a command of the shell.

    Raises:
        OSError: It fails.
    """
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
