"""Interrupted trainings: each kept in a folder, so that any end of it costs minutes.

The folders lie in `.toygpt/resume/` of the project that the user works in, each named
by the fingerprint of all inputs of its weights. So the same command finds its own work
again, also from a temporary copy of the project, and never that of another training.

    training.json         which training it is, see description.py
    step-*, LATEST.json   checkpoints, see checkpoint.py
    lock                  held by the process that trains
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import remove_directory, sweep_leftovers
from toygpt.pipeline.json_file import WrongVersionError
from toygpt.pipeline.lock import AlreadyLockedError, Holder, holder_of, locked
from toygpt.resuming.checkpoint import CheckpointFolder
from toygpt.resuming.description import (
    DESCRIPTION_FILE,
    Description,
    read_description,
    write_description,
)
from toygpt.resuming.fingerprint import check_same_but_precision, fingerprint_of

LOCK_FILE = "lock"


class RunFolder(CheckpointFolder):
    """The folder of a training that has not ended."""

    @property
    def fingerprint(self) -> str:
        """The digest of all inputs of the weights."""
        return self.folder.name

    def describe(self) -> Description | None:
        """Return the description, if training has started; see `read_description`."""
        return read_description(self.folder)

    def write_description(self, description: Description) -> None:
        """Write the description of the training."""
        write_description(self.folder, description)

    def holder(self) -> Holder | None:
        """Return the process that trains it now, if there is one."""
        return holder_of(self.folder / LOCK_FILE)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that trains this.

        Raises:
            InputError: Another process trains it.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / LOCK_FILE, wait=False))
            except AlreadyLockedError as error:
                problem = f"already: {error.holder} works in {self.folder}"
                raise InputError(f"this very training is running {problem}") from None
            yield

    def reset(self) -> None:
        """Remove the checkpoints and the description, but not the lock."""
        self.remove_all_but([])
        (self.folder / DESCRIPTION_FILE).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder, in one step: no half of it looks like a damaged one."""
        remove_directory(self.folder)


def run_folders_root(root: Path) -> Path:
    """Return the folder of all interrupted trainings of a project."""
    return root / ".toygpt" / "resume"


def run_folder_of(root: Path, inputs: Mapping[str, Any]) -> RunFolder:
    """Return the folder of the training that has these inputs of the fingerprint."""
    return RunFolder(run_folders_root(root) / fingerprint_of(inputs))


def list_run_folders(root: Path) -> list[RunFolder]:
    """Return all trainings of a project that have not ended, running ones included."""
    folders = run_folders_root(root).glob("[!.]*/")  # the slash: no files
    return [RunFolder(path) for path in sorted(folders)]


@contextmanager
def open_run_folder(
    root: Path,
    inputs: Mapping[str, Any],
    *,
    expected: str | None = None,
    fresh: bool = False,
) -> Iterator[RunFolder]:
    """Yield the folder of a training, new or as it was left, locked by this process.

    Of several ranks, rank zero alone calls this: it decides for all.

    Args:
        root: The project that the user works in.
        inputs: Inputs of the fingerprint; plain values that JSON can hold.
        expected: Fingerprint of the training that the user asked to continue.
        fresh: Whether its checkpoints are removed, so that it starts over.

    Raises:
        InputError: Another process trains it, it is damaged, or it is not the training
            that the user asked for.
    """
    run_folder = run_folder_of(root, inputs)
    if expected is not None and expected != run_folder.fingerprint:
        _rename(RunFolder(run_folders_root(root) / expected), run_folder, inputs)
    sweep_leftovers(run_folders_root(root))
    if not run_folder.folder.exists():
        _warn_of_other_versions(root)
    with run_folder.locked():
        if fresh:
            run_folder.reset()
        run_folder.remove_all_but(run_folder.checkpoints())
        yield run_folder


def _rename(found: RunFolder, wanted: RunFolder, inputs: Mapping[str, Any]) -> None:
    """Continue a training in another precision: its folder gets the wanted name."""
    missing = InputError(f"there is no interrupted training {found.fingerprint}")
    if not found.folder.is_dir():
        raise missing
    with found.locked():
        if (description := found.describe()) is None:
            raise missing
        check_same_but_precision(description.name, description.inputs, inputs)
        if wanted.folder.exists():
            raise InputError(
                f"there is an interrupted training with these parameters, too; resume "
                f"that one, or delete {wanted.folder}"
            )
        found.folder.rename(wanted.folder)


def _warn_of_other_versions(root: Path) -> None:
    for folder in list_run_folders(root):
        try:
            folder.describe()
        except WrongVersionError as error:
            if folder.holder() is not None:  # that version trains it now
                continue
            print(f"WARNING: not continued: {error}", file=sys.stderr, flush=True)
        except InputError:  # of another training; `doctor` reports it
            pass
