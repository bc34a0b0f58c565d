"""Cases for the benchmarks' tests, in a file that is imported in no time.

Each runs in a process of its own, which imports this file.
"""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.gpu.setup import Setup
from benchmarks.measure import EndRound


def works(end_round: EndRound, *, has_setting: bool = False) -> None:
    assert ("TOYGPT_TEST" in os.environ) == has_setting
    while True:
        sum(range(100_000))
        end_round()


def works_with_a_setting(end_round: EndRound) -> None:
    works(end_round, has_setting=True)


def gives_up(end_round: EndRound) -> None:
    end_round()
    end_round()


def part_that_fails(setup: Setup) -> None:
    """Leave a table, then fail."""
    (setup.tables / "gpu-first.json").write_text("{}", encoding="utf-8")
    raise ValueError("no such kernel")


def part_that_crashes(setup: Setup) -> None:
    """End as by a segmentation fault."""
    os.kill(os.getpid(), signal.SIGSEGV)


def part_that_exits(setup: Setup) -> None:
    """End without an error."""
    os._exit(3)


def part_that_hangs(setup: Setup) -> None:
    """Start a process, write its id, and wait for ever."""
    child = subprocess.Popen(["sleep", "1000"])
    (setup.tables / "child").write_text(str(child.pid), encoding="utf-8")
    child.wait()


def trial(*, name: str, folder: Path, **_: Any) -> None:
    """Write which files are there; the trial `killed` leaves one, and is killed."""
    if name == "killed":
        (folder / "checkpoint").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    found = [file.name for file in folder.iterdir()]
    (folder / f"{name}.json").write_text(json.dumps({"found": found}), encoding="utf-8")
