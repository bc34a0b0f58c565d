"""The six stages of the pipeline, each run as `python -m stages.NAME`."""

import errno
import gc
import io
import os
import sys
from collections.abc import Callable
from types import TracebackType

from toygpt import paths
from toygpt.errors import InputError, missing_package
from toygpt.memory import keep_freed_memory
from toygpt.processes import end_with_dvc, find_dvc

INTERRUPTED = 130

# Otherwise torch, once Lightning imports its compiler, makes one in the system's
# temporary folder.
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR", str(paths.main_root() / ".toygpt" / "torchinductor")
)


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


# While `python -m` imports this, the script is "-m".
if sys.argv[0] == "-m":
    sys.excepthook = report_error
    # Imports make much that stays. Looking for garbage in it, again and again, is a
    # quarter of their time: seconds in `train`.
    gc.disable()
STARTED_BY = find_dvc()  # asked before anything that takes time is imported
keep_freed_memory()  # and before torch is


def run(stage: Callable[[], None]) -> None:
    """Run a stage; what its user can mend ends it with one message, not a traceback."""
    gc.enable()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not know a character
        sys.stdout.reconfigure(errors="backslashreplace")
    end_with_dvc(STARTED_BY)
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
