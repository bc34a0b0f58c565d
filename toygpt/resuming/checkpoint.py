"""Checkpoints in a folder: the last two, each verified by its digest.

    step-600.ckpt   a checkpoint, never changed once it is there
    LATEST.json     the last two checkpoints with their digests

A checkpoint counts once LATEST.json names it, and that file is replaced in one step: at
any moment, also when the power fails, it names two whole checkpoints. Other checkpoints
are removed. LATEST.json is there before the first checkpoint, with an empty list: where
there are checkpoints without it, it was lost, and none of them can be trusted.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import new_file, sha256_of, sweep_leftovers, write_json
from toygpt.pipeline.json_file import read_json

VERSION = 2  # of all files in the folder of a training
LATEST_FILE = "LATEST.json"
NUM_KEPT = 2

HOW_TO_START_OVER = (
    "to start this training over, delete the folder, or run `python . train --fresh`"
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a step, with the size and the digest that it was saved with."""

    step: int
    sha256: str
    bytes: int

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"step-{self.step}.ckpt"


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
            _warn(f"{self.path_of(checkpoint)} {damage}")
        if checkpoints:
            raise InputError(
                f"no checkpoint of this training in {self.folder} can be trusted; "
                f"{HOW_TO_START_OVER}"
            )
        return None

    def path_of(self, checkpoint: Checkpoint) -> Path:
        """Return the path of a checkpoint."""
        return self.folder / checkpoint.file

    def damage_of(self, checkpoint: Checkpoint) -> str | None:
        """Return what is wrong with the file of a checkpoint, if anything is."""
        path = self.path_of(checkpoint)
        if not path.is_file():
            return "is missing"
        if (size := path.stat().st_size) != checkpoint.bytes:
            return f"is damaged: {size:,} bytes instead of {checkpoint.bytes:,}"
        if sha256_of(path) != checkpoint.sha256:
            return "is damaged: its digest is not the one that was saved"
        return None

    def save(self, step: int, checkpoint: dict[str, Any]) -> None:
        """Save a checkpoint, and keep the newest undamaged one before it.

        Args:
            step: The number of steps that are done.
            checkpoint: Tensors, numbers, strings, and lists and dicts of these.
        """
        import torch  # `doctor` and `resume` read no checkpoint and need no torch

        earlier = [
            entry
            for entry in self.checkpoints()
            if entry.step < step and entry.step not in self._damaged_steps
        ]
        with new_file(self.folder / f"step-{step}.ckpt") as file:
            torch.save(checkpoint, cast("IO[bytes]", file))
        self._damaged_steps.discard(step)
        newest = Checkpoint(step, file.sha256, file.num_bytes)
        self.remove_all_but([newest, *earlier][:NUM_KEPT])

    def load(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Read a checkpoint, with all its tensors on the CPU.

        Raises:
            InputError: The file is damaged, or holds a program, as any pickle may.
        """
        import torch

        path = self.path_of(checkpoint)
        try:
            values: dict[str, Any] = torch.load(
                path, map_location="cpu", weights_only=True
            )
        except (OSError, MemoryError):
            raise
        except Exception:  # torch advises to trust the file: that is not passed on
            raise InputError(
                f"{path} is not a checkpoint of toyGPT: it is damaged, or holds a "
                f"program (nothing of it was run); {HOW_TO_START_OVER}"
            ) from None
        return values

    def remove_all_but(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Write the list of the checkpoints that count, and remove all others."""
        entries = [asdict(checkpoint) for checkpoint in checkpoints]
        path = self.folder / LATEST_FILE
        write_json(path, {"version": VERSION, "checkpoints": entries})
        kept = {checkpoint.file for checkpoint in checkpoints}
        for file in self._checkpoint_files():
            if file.name not in kept:
                file.unlink()
        sweep_leftovers(self.folder)

    def _checkpoint_files(self) -> Iterator[Path]:
        return self.folder.glob("step-*.ckpt")


def _warn(message: str) -> None:
    print(f"WARNING: {message}", file=sys.stderr, flush=True)
