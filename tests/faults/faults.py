"""Break a program at every moment at which it changes a file.

The program knows nothing of this: in a process of its own, the calls that change files
are wrapped. Each is a failpoint, named by the kind of change and the file: `open`,
`write`, `flush`, `rename`, `remove` or `make` (a folder). Numbers of steps and ids are
not part of a name: `rename step-N.ckpt`, `write LATEST.json`.
"""

import errno
import gc
import io
import multiprocessing
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar

from toygpt.pipeline.files import TEMPORARY_NAME

T = TypeVar("T")
Effect = Literal["no room", "kill before", "kill half way", "kill after"]

# Parts of file names that differ from run to run, and what stands for them.
NAMES: list[tuple[str | re.Pattern[str], str]] = [
    (TEMPORARY_NAME, r"\g<name>"),
    (r"step-\d+\.ckpt", "step-N.ckpt"),
    (r"[0-9a-f]{32}", "training"),
    (r"\d{8}-\d{6}-[0-9a-f]{6}", "run"),
]


class Fault(NamedTuple):
    """What goes wrong, and at which call."""

    point: str  # a regular expression that matches all of its name
    number: int  # which of those calls, from 1
    effect: Effect


def name_of(path: Path) -> str:
    """Return the part of a failpoint's name that stands for a file."""
    name = path.name
    for pattern, replacement in NAMES:
        if match := re.fullmatch(pattern, name):
            name = match.expand(replacement)
    return name


class Faults:
    """The wrapped calls of one process, of which one fails."""

    def __init__(self, fault: Fault | None, folder: Path, report: Path) -> None:
        self.fault = fault
        self.folder = folder
        self.report = report.open("a", encoding="utf-8", buffering=1)
        self.num_calls = 0

    def install(self) -> None:
        """Wrap the calls by which Python code changes files."""
        # A killed process loses no data that it has handed to the system; to wait for
        # the disk would only take time.
        os.fsync = lambda fd: None
        # `pathlib` and `shutil` look all of these up when they need them.
        for name, word, place in (
            ("fsync", "flush", 0),
            ("replace", "rename", 1),
            ("rename", "rename", 1),
            ("unlink", "remove", 0),
            ("rmdir", "remove", 0),
            ("mkdir", "make", 0),
        ):
            setattr(os, name, self._wrapped(getattr(os, name), word, place))
        opened = io.open

        def open_watched(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            point = self.point("open", file) if set(mode) & set("wax") else None
            if point is None:
                return opened(file, mode, *rest, **more)
            found = self.do(point, lambda: opened(file, mode, *rest, **more), file)
            return WatchedFile(found, point.replace("open", "write"), self)

        io.open = open_watched
        sys.modules["builtins"].open = open_watched  # type: ignore[attr-defined]

    def _wrapped(self, call: Callable[..., T], word: str, place: int) -> Any:
        def watched(*arguments: Any, **more: Any) -> T:
            point = self.point(word, arguments[place], more.get("dir_fd"))
            if point is None:
                return call(*arguments, **more)
            return self.do(point, lambda: call(*arguments, **more), arguments[place])

        return watched

    def point(self, word: str, file: Any, folder: int | None = None) -> str | None:
        """Return a failpoint's name, or None if no file of the project changes."""
        if isinstance(file, int):
            path = Path(f"/proc/self/fd/{file}").readlink()
        elif folder is not None:
            path = Path(f"/proc/self/fd/{folder}").readlink() / file
        else:
            path = Path.cwd() / file
        is_missing = word == "remove" and not path.exists()  # then nothing is removed
        if is_missing or not path.is_relative_to(self.folder):
            return None
        return f"{word} {name_of(path)}"

    def do(
        self,
        point: str,
        whole: Callable[[], T],
        file: Any = None,
        half: Callable[[], object] | None = None,
    ) -> T:
        """Make a call, or half of it; the system's error names the file."""
        if self.fault is None or not re.fullmatch(self.fault.point, point):
            return whole()
        self.num_calls += 1
        self.report.write(point + "\n")
        if self.num_calls < self.fault.number:
            return whole()
        effect = self.fault.effect
        if half is not None and effect in ("no room", "kill half way"):
            half()
        if effect == "no room":  # for this call, and for all later ones
            name = None if file is None or isinstance(file, int) else str(file)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        if effect == "kill after":
            whole()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed")


class WatchedFile:
    """An open file, each write to which is a failpoint."""

    def __init__(self, file: Any, point: str, faults: Faults) -> None:
        self._file, self._point, self._faults = file, point, faults

    def write(self, data: Any) -> Any:
        """Write all of it, half of it, or none."""

        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        return self._faults.do(self._point, lambda: self._file.write(data), half=half)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)


class Ended(NamedTuple):
    """How a program ended."""

    code: int  # negative after a signal
    calls: list[str]  # of the failpoints that the fault matches
    fired: list[str]  # those of them at which it was broken
    output: str


class Workbench:
    """A process that has imported a module once, and runs its functions in forks."""

    def __init__(self, module: str) -> None:
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload([module])

    def run(
        self,
        function: Callable[[], object],
        folder: Path,
        fault: Fault | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run a function in a folder, and break it if there is a fault."""
        with tempfile.TemporaryDirectory() as name:
            notes = Path(name)
            task = (function, folder, fault, environment or {}, notes)
            process = self._forks.Process(target=_run, args=task)
            process.start()
            process.join()
            assert process.exitcode is not None
            calls = (notes / "report").read_text(encoding="utf-8").splitlines()
            fired = calls[fault.number - 1 :] if fault else []
            output = (notes / "output").read_text(encoding="utf-8")
        return Ended(process.exitcode, calls, fired, output)


def _run(
    function: Callable[[], object],
    folder: Path,
    fault: Fault | None,
    environment: Mapping[str, str],
    notes: Path,
) -> None:
    gc.freeze()  # so that all forks share the memory of what was imported
    output = os.open(notes / "output", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR may be another now
    Faults(fault, folder, notes / "report").install()
    function()
