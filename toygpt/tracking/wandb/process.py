"""Where W&B's processes put their files, and which variables they see."""

import atexit
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from toygpt.pipeline.files import temporary_directory
from toygpt.pipeline.variables import changed_variables
from toygpt.tracking.wandb.settings import VARIABLES


def configure_wandb(root: Path, *, is_online: bool) -> None:
    """Keep W&B's files in the project, its messages and its error reports to itself."""
    folder = str(root / ".toygpt" / "wandb")
    os.environ["WANDB_DATA_DIR"] = os.environ["WANDB_CACHE_DIR"] = folder
    if not is_online:  # where `wandb login` has noted a server
        os.environ["WANDB_CONFIG_DIR"] = folder
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    os.environ["WANDB_SILENT"] = "true"


@contextmanager
def opening_wandb(root: Path, sweep_id: str | None) -> Iterator[None]:
    """Prepare the environment of W&B's processes, which start in the block.

    Settings of a run come from its record: the variables may be those of another run.

    Args:
        root: The project that the user works in.
        sweep_id: Of the run that is opened, if it is of a sweep.
    """
    hidden: dict[str, str | None] = dict.fromkeys(VARIABLES.values())
    hidden |= dict.fromkeys(["WANDB_MODE", "WANDB_DISABLED", "WANDB_RESUME"])
    if sweep_id is None or sweep_id != os.environ.get("WANDB_SWEEP_ID"):
        hidden["WANDB_SWEEP_PARAM_PATH"] = None  # the parameters of another trial
    with changed_variables(hidden), temporary_files_in_project(root):
        yield


@contextmanager
def temporary_files_in_project(root: Path) -> Iterator[None]:
    """Put temporary files there: those of Python and of processes started meanwhile.

    W&B's processes create sockets, whose path may have 107 bytes at most. They get the
    path relative to the working directory, which is in the project.
    """
    folder = _temporary_folder(root)
    folder.mkdir(parents=True, exist_ok=True)  # it may have been deleted
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        with changed_variables(
            {"TMPDIR": min(str(folder), os.path.relpath(folder), key=len)}
        ):
            yield
    finally:
        tempfile.tempdir = before


@cache
def _temporary_folder(root: Path) -> Path:
    """Return a folder for W&B's temporary files, removed when this process ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    parent = root / ".toygpt" / "wandb" / "tmp"
    return stack.enter_context(temporary_directory(parent))
