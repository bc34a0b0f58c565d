"""Run a stage of the pipeline: what happens before its work, and when it fails."""

import errno
import gc
import io
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError, missing_package
from toygpt.pipeline.process import end_with_dvc, find_dvc, keep_freed_memory

INTERRUPTED = 130

_started_by: list[Any] = []


def prepare() -> None:
    """Prepare this process for a stage, before the stage imports anything heavy."""
    sys.excepthook = report_error
    # Imports make much that stays. Looking for garbage in it, again and again, is a
    # quarter of their time: seconds in `train`. `run` turns the search on again.
    gc.disable()
    # Otherwise torch, once Lightning imports its compiler, makes one in the system's
    # temporary folder.
    os.environ.setdefault(
        "TORCHINDUCTOR_CACHE_DIR", str(paths.main_root() / ".toygpt" / "torchinductor")
    )
    _started_by[:] = find_dvc()  # later, DVC may have ended already
    keep_freed_memory()  # PyTorch reads the setting when it is imported


def report_error(
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
) -> None:
    """Print what Python ends with: of a package that is not installed, one line."""
    if isinstance(error, ModuleNotFoundError) and (advice := missing_package(error)):
        print(f"error: {advice}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def run(stage: Callable[[], None]) -> None:
    """Run a stage; an error of its user ends it with one message, not a traceback."""
    gc.enable()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not know a character
        sys.stdout.reconfigure(errors="backslashreplace")
    end_with_dvc(_started_by)
    try:
        stage()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        file = error.filename or "the output"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(
                f"error: no room left for {file}: make room on its disk, then run the "
                f"same command again"
            )
        sys.exit(f"error: {file}: {error.strerror or error}")
