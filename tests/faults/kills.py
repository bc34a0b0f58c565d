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
from toygpt.resuming.run_folder import list_run_folders

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
        self.send = process.send_signal  # to it alone
        self._output = output

    @property
    def output(self) -> str:
        """The output of it and of its children until now."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)

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
    """Return the process that runs a stage, once the command beside has started it."""

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


def newest_step(root: Path, name: str | None = None) -> int:
    """Return the step of the newest checkpoint of all trainings, or of one by name."""
    steps = [0]
    for training in list_run_folders(root):
        if name is None or getattr(training.describe(), "name", None) == name:
            steps += [checkpoint.step for checkpoint in training.checkpoints()]
    return max(steps)
