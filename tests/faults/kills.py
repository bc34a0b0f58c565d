"""Commands beside a test, as in terminals of their own, and signals to them."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil

from tests.project import PATIENCE_SECONDS, Workspace

Found = TypeVar("Found")

POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], Found | None]) -> Found:
    """Ask again and again, until there is an answer; return it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"waited {PATIENCE_SECONDS} seconds in vain")


class Command:
    """A command that runs, in a session of its own; Ctrl-C reaches all of it."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def output(self) -> str:
        """The output of it and of its children until now."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def wait(self) -> int:
        """Return its exit code, when it has ended."""
        return self.process.wait(PATIENCE_SECONDS)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it alone."""
        self.process.send_signal(number)

    def press_ctrl_c(self) -> None:
        """Do as a terminal does: all processes that run in it get the signal."""
        os.killpg(self.process.pid, signal.SIGINT)


@contextmanager
def started(workspace: Workspace, *command: str) -> Iterator[Command]:
    """Start a command; all its processes are killed when the block ends."""
    output = workspace.root.parent / f"output-{time.monotonic_ns()}.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            **workspace.here,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Command(process, output)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def stage_processes(root: Path, stage: str | None = None) -> list[psutil.Process]:
    """Return the processes that run a stage of this project, or of a copy inside it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            match process.cmdline():
                case [_, "-m", module] if (
                    module.startswith("stages.")
                    and stage in (None, module.removeprefix("stages."))
                    and Path(process.cwd()).is_relative_to(root)
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
    return found


def wait_for_stage(root: Path, stage: str, *, beside: Command) -> psutil.Process:
    """Return the process that runs a stage, when there is one.

    Args:
        root: Of the project.
        stage: As in `python -m stages.STAGE`.
        beside: The command that is to start it: once it has ended, no stage will come.
    """

    def look() -> psutil.Process | None:
        processes = stage_processes(root, stage)
        assert processes or beside.is_running, beside.output
        return processes[0] if processes else None

    return wait_until(look)


def is_gone(process: psutil.Process) -> bool:
    """Return whether a process has ended, reaped or not."""
    with suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True
