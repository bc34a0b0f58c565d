"""Run a stage of the pipeline: prepare its process, and report its errors."""

import errno
import gc
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    # Modules stay, and hold no garbage. Searching them for it again and again takes a
    # quarter of the time of imports: seconds in `train`. `run` turns it on again.
    gc.disable()
    # Without it, torch's compiler makes a cache in the system's temporary folder.
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
    """Print the error that ends Python; one line if a package is not installed."""
    if isinstance(error, ModuleNotFoundError) and (advice := missing_package(error)):
        print(f"error: {advice}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def run(stage: Callable[[], None]) -> None:
    """Run a stage; an error in the user's input ends it with one message."""
    gc.enable()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not know a character
        sys.stdout.reconfigure(errors="backslashreplace")
    end_with_dvc(_started_by or find_dvc())
    with errors_in_one_line():
        stage()


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End the process with one message on an error in the user's input or the disk.

    Raises:
        SystemExit: In place of such an error.
    """
    try:
        yield
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
