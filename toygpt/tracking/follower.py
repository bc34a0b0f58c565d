"""The process that syncs the trackers, as the stage beside it sees it."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Self

from toygpt.pipeline.params import TrackingParams
from toygpt.pipeline.warning import warn
from toygpt.tracking.record import Record
from toygpt.tracking.run_info import wanted_trackers

# How long a stage waits for the process, which itself allows the trackers 90 seconds at
# the end of a run, and then 10 to each of two, to earlier runs, and to its own exit: it
# is ended if even that goes wrong.
PATIENCE_WITH_PROCESS_SECONDS = 130.0
# Where that process finds this code, wherever it works.
CODE = str(Path(__file__).parents[2])


class Follower:
    """A process that brings the trackers up to date with a record until it is closed.

    Training imports no tracker, and never waits for one. Ctrl-C does not reach the
    process, which has a session of its own: it has the run's end to log.
    """

    def __init__(self, tracking: TrackingParams, root: Path) -> None:
        self.directories: dict[str, Path] = {}  # to copy, once all is logged
        self._tracking = tracking
        self._root = root
        self._folder: Path | None = None  # of the record
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def start(self, record: Record) -> None:
        """Start the process, unless no tracker shows the run."""
        if not set(record.info.trackers).isdisjoint(wanted_trackers(self._tracking)):
            self._folder = record.folder
            self._start()

    def _start(self) -> None:
        self._process = None
        path = os.pathsep.join(filter(None, [CODE, os.environ.get("PYTHONPATH")]))
        command = ["-P", "-m", "toygpt.tracking.sync", str(self._folder)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, *command, self._tracking.model_dump_json()],
                cwd=self._root,
                env=os.environ | {"PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:  # no memory for it, say
            self._warn(str(error))

    def __exit__(self, *_: object) -> None:
        """Wait until everything is synced, or the trackers do not answer in time."""
        if self._process is not None and self._process.poll() is not None:
            self._process.communicate()
            self._start()  # it has ended early: another one syncs what is left
        if self._process is None:
            return
        paths = {name: str(path) for name, path in self.directories.items()}
        end = {"ended": monotonic(), "directories": paths}  # the process's clock, too
        line = f"{json.dumps(end)}\n".encode()
        try:
            self._process.communicate(line, PATIENCE_WITH_PROCESS_SECONDS)
        except subprocess.TimeoutExpired:
            _kill_tree(self._process.pid)
            self._process.communicate()
        if self._process.returncode:
            self._warn("the process that syncs them was ended")

    def _warn(self, reason: str) -> None:
        warn(
            f"the trackers cannot be synced: {reason}. The work continues; they can be "
            f"synced later by `python . track`."
        )


def _kill_tree(process_id: int) -> None:
    """Kill a process and those that it started: W&B's own may hang, and would stay."""
    import psutil

    process = psutil.Process(process_id)
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            each.kill()
