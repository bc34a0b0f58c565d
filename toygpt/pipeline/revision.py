"""The files of the project at a revision: from Git, DVC's cache, or DVC's remote."""

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EDQUOT, ENOENT, ENOSPC
from functools import cached_property
from pathlib import Path
from typing import Any

from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError, first_line
from toygpt.pipeline.files import temporary_directory

# A full disk, a quota, a file of another user: no sign that a file is not there.
FAULTS_OF_THIS_MACHINE = {ENOSPC, EDQUOT, EACCES}


class Revision:
    """The project in the workspace, or as a commit or an experiment has it.

    Args:
        root: The project's folder.
        name: A commit, branch, tag or experiment; None means the workspace.
    """

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root = root
        self.name = name

    def __str__(self) -> str:
        return self.name or "the workspace"

    @cached_property
    def _files(self) -> Any:
        from dvc.api import DVCFileSystem

        return DVCFileSystem(str(self.root), rev=self.name)

    def open(self, path: Path) -> Any:
        """Open a file for reading.

        Raises:
            FileNotFoundError: There is none; `filename` is its path.
            InputError: There is no such revision.
            OSError: The disk is full, or a file may not be read.
        """
        if self.name is None:
            return (self.root / path).open("rb")
        from dvc.scm import RevError

        try:
            return self._files.open(path.as_posix(), "rb")
        except RevError as error:
            raise InputError(
                f"{first_line(error)}: name a commit, branch or tag, or one of "
                f"`dvc exp list --all-commits`"
            ) from None
        except Exception as error:  # DVC's are many
            reason = f"neither here nor in DVC's cache ({_reason_of(error)})"
            raise FileNotFoundError(ENOENT, reason, str(path)) from None

    def read(self, path: Path) -> str:
        """Return the text of a file; it raises what `open` does."""
        with self.open(path) as file:
            return str(file.read().decode())

    @contextmanager
    def folder(self, path: Path) -> Iterator[Path]:
        """Yield a folder: that of the workspace, or a temporary copy of a commit's.

        Raises:
            InputError: The folder is neither in DVC's cache nor in its remote.
            OSError: The disk is full, or a file may not be read.
        """
        if self.name is None:
            yield self.root / path
            return
        with temporary_directory(self.root / paths.TEMPORARY) as copies:
            try:
                self.copy(path, copies / path.name)
            except Exception as error:  # DVC's are many
                raise InputError(
                    f"{path} of {self} is neither in DVC's cache nor in its remote: "
                    f"{_reason_of(error)}"
                ) from None
            yield copies / path.name

    def copy(self, path: Path, to: Path) -> None:
        """Copy a folder of a commit; DVC has many errors for one that is not there."""
        self._files.get(path.as_posix(), str(to), recursive=True)


def _reason_of(error: BaseException) -> str:
    """Return why DVC has no file: what the first of its errors in a chain says.

    Raises:
        OSError: The first one is a fault of this machine.
    """
    while cause := error.__cause__ or error.__context__:
        error = cause
    if isinstance(error, OSError) and error.errno in FAULTS_OF_THIS_MACHINE:
        raise error
    return first_line(error)
