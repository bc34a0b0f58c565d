"""Checkpoints in a folder: the last two, each verified by its digest.

    step-600.ckpt   a checkpoint, never changed once it is there
    step-700/       another, of which each rank has written a file (tensor_folder.py)
    LATEST.json     the last two checkpoints with the digests of their files

A checkpoint counts once LATEST.json names it, and that file is replaced in one step: at
any moment, also when the power fails, it names two whole checkpoints. Other checkpoints
are removed. LATEST.json is there before the first checkpoint, with an empty list: where
there are checkpoints without it, it was lost, and none of them can be trusted.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple, Self, cast

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import (
    new_directory,
    new_file,
    remove_directory,
    sha256_of,
    sweep_leftovers,
    write_json,
)
from toygpt.pipeline.json_file import read_json

VERSION = 3  # of all files in the folder of a training
LATEST_FILE = "LATEST.json"
NUM_KEPT = 2
# In the folder of a checkpoint that several ranks have written, beside their files.
METADATA_FILE = ".metadata"
PROGRESS_FILE = "progress.ckpt"
FILE_NAME = re.compile(
    r"step-\d+(\.ckpt|/(\.metadata|progress\.ckpt|__\d+_\d+\.distcp))", re.ASCII
)

HOW_TO_START_OVER = (
    "to start this training over, delete the folder, or run `python . train --fresh`"
)


@dataclass(frozen=True)
class SavedFile:
    """A file of a checkpoint, with the size and the digest that it was saved with."""

    name: str
    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Digest a file that was just written."""
        return cls(path.name, sha256_of(path), path.stat().st_size)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a step: one file, or a folder of them."""

    step: int
    files: tuple[SavedFile, ...]

    @property
    def name(self) -> str:
        """The name of its file or folder."""
        return self.files[0].name.partition("/")[0]


class NewFolder(NamedTuple):
    """The folder of a checkpoint that is being written, and the files in it so far."""

    path: Path
    files: list[SavedFile]


@dataclass(frozen=True)
class Latest:
    """The contents of LATEST.json: the checkpoints that count, the newest first."""

    checkpoints: list[Checkpoint]


class CheckpointFolder:
    """The checkpoints of one training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._damaged_steps: set[int] = set()

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints that LATEST.json names, the newest first.

        Raises:
            InputError: LATEST.json is damaged, lost, or of another version.
        """
        path = self.folder / LATEST_FILE
        try:
            latest = read_json(path, Latest, version=VERSION, advice=HOW_TO_START_OVER)
        except FileNotFoundError:
            if found := sorted(file.name for file in self._checkpoint_files()):
                raise InputError(
                    f"{path} is lost, and {', '.join(found)} cannot be trusted without "
                    f"it; {HOW_TO_START_OVER}"
                ) from None
            return []
        for checkpoint in latest.checkpoints:
            names = [file.name for file in checkpoint.files]
            if not (names and all(map(FILE_NAME.fullmatch, names))):
                raise InputError(
                    f"{path} is damaged (files of step {checkpoint.step}: {names}); "
                    f"{HOW_TO_START_OVER}"
                )
        return latest.checkpoints

    def best_checkpoint(self) -> Checkpoint | None:
        """Return the newest undamaged checkpoint, or None where none was saved yet.

        Raises:
            InputError: All checkpoints are damaged.
        """
        checkpoints = self.checkpoints()
        for checkpoint in checkpoints:
            damage = self.damage_of(checkpoint)
            if damage is None:
                if self._damaged_steps:
                    _warn(f"falling back to step {checkpoint.step:,}")
                return checkpoint
            self._damaged_steps.add(checkpoint.step)
            _warn(f"{self.folder}/{damage}")
        if checkpoints:
            raise InputError(
                f"no checkpoint of this training in {self.folder} can be trusted; "
                f"{HOW_TO_START_OVER}"
            )
        return None

    def path_of(self, checkpoint: Checkpoint) -> Path:
        """Return the path of a checkpoint: a file or a folder."""
        return self.folder / checkpoint.name

    def damage_of(self, checkpoint: Checkpoint) -> str | None:
        """Return the name of a damaged file of a checkpoint, and the damage, if any."""
        for file in checkpoint.files:
            if (damage := self._damage_of_file(file)) is not None:
                return f"{file.name} {damage}"
        return None

    def _damage_of_file(self, file: SavedFile) -> str | None:
        path = self.folder / file.name
        if not path.is_file():
            return "is missing"
        if (size := path.stat().st_size) != file.bytes:
            return f"is damaged: {size:,} bytes instead of {file.bytes:,}"
        if sha256_of(path) != file.sha256:
            return "is damaged: its digest is not the one that was saved"
        return None

    def save(self, step: int, checkpoint: dict[str, Any]) -> None:
        """Save a checkpoint as one file, and keep the newest undamaged one before it.

        Args:
            step: The number of steps that are done.
            checkpoint: Tensors, numbers, strings, and lists and dicts of these.
        """
        with self._newest(step) as files:
            files.append(_write(self.folder / f"step-{step}.ckpt", checkpoint))

    @contextmanager
    def new_folder(self, step: int, progress: dict[str, Any]) -> Iterator[NewFolder]:
        """Save a checkpoint as a folder, into which other processes write, too.

        When the block ends without an error, the files that are listed then count as a
        checkpoint; after an error nothing of the attempt remains.

        Args:
            step: The number of steps that are done.
            progress: Everything but the tensors, which all processes write.
        """
        with self._newest(step) as files:
            name = f"step-{step}"
            with new_directory(self.folder / name) as path:
                new = NewFolder(path, [_write(path / PROGRESS_FILE, progress)])
                yield new
            files += [replace(file, name=f"{name}/{file.name}") for file in new.files]

    @contextmanager
    def _newest(self, step: int) -> Iterator[list[SavedFile]]:
        """Count files, which the block writes and lists, as the newest checkpoint."""
        earlier = [
            entry
            for entry in self.checkpoints()
            if entry.step < step and entry.step not in self._damaged_steps
        ]
        files: list[SavedFile] = []
        yield files
        self._damaged_steps.discard(step)
        newest = Checkpoint(step, tuple(files))
        self.remove_all_but([newest, *earlier][:NUM_KEPT])

    def load(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Read a checkpoint, with all its tensors on the CPU.

        Returns:
            What was saved. The tensors of a folder are not read yet: under the key
            `tensors` is a TensorFolder.

        Raises:
            InputError: A file is damaged, or holds a program, as any pickle may.
        """
        path = self.path_of(checkpoint)
        if path.suffix == ".ckpt":
            return _read(path)
        from toygpt.resuming.tensor_folder import TensorFolder

        return _read(path / PROGRESS_FILE) | {"tensors": TensorFolder(path)}

    def remove_all_but(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Write the list of the checkpoints that count, and remove all others."""
        entries = [asdict(checkpoint) for checkpoint in checkpoints]
        path = self.folder / LATEST_FILE
        write_json(path, {"version": VERSION, "checkpoints": entries})
        kept = {checkpoint.name for checkpoint in checkpoints}
        for found in self._checkpoint_files():
            if found.name in kept:
                continue
            if found.is_dir():
                remove_directory(found)
            else:
                found.unlink()
        sweep_leftovers(self.folder)

    def _checkpoint_files(self) -> Iterator[Path]:
        return self.folder.glob("step-*")


def _write(path: Path, values: dict[str, Any]) -> SavedFile:
    import torch  # `doctor` and `resume` read no checkpoint and need no torch

    with new_file(path) as file:
        torch.save(values, cast("IO[bytes]", file))
    return SavedFile(path.name, file.sha256, file.num_bytes)


def _read(path: Path) -> dict[str, Any]:
    import torch

    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception:  # torch advises to trust the file: that is not passed on
        raise InputError(
            f"{path} is not a checkpoint of toyGPT: it is damaged, or holds a "
            f"program (nothing of it was run); {HOW_TO_START_OVER}"
        ) from None
    return values


def _warn(message: str) -> None:
    print(f"WARNING: {message}", file=sys.stderr, flush=True)
