"""Trainings that are not finished: kept so that whatever ends them costs minutes.

Each has a folder in `.toygpt/resume/` of the project that the user works in, named by
the fingerprint of everything that decides its weights. So the same command finds its
own work again, in any temporary folder, and never that of another training.

    training.json       what is trained, and by whom
    step-600.ckpt       a checkpoint, never changed once it is there
    LATEST.json         the last two checkpoints with their digests
    lock                held by the process that trains

A checkpoint counts once LATEST.json names it, and that file is replaced in one step:
whenever the power fails, it names two whole checkpoints. What it does not name is
removed. It is there before the first checkpoint, and names none: where there are
checkpoints without it, it was lost, and nothing that is left can be trusted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import (
    DigestedFile,
    is_at,
    naming,
    new_file,
    remove_directory,
    sha256_of,
    sweep_leftovers,
    write_json,
)

if TYPE_CHECKING:
    from toygpt.data.manifest import Manifest
    from toygpt.pipeline.params import Params

VERSION = 1
DESCRIPTION_FILE = "training.json"
LATEST_FILE = "LATEST.json"
LOCK_FILE = "lock"

# What may change on the way, if the user says so (`resume --precision`): the precision,
# and the attention that is fastest with it. Both change how the weights are rounded.
CHANGEABLE = {"train.precision", "train.attention"}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, and how to know it unchanged."""

    file: str
    sha256: str
    bytes: int
    step: int


@dataclass(frozen=True)
class Description:
    """What is trained, and how to go on with it."""

    name: str  # as the trackers show it
    run: str  # id of its record, see tracking/record.py
    started: float  # seconds since 1970
    experiment: str | None  # name of the DVC experiment, if it is one
    is_temporary: bool  # whether that runs in a folder of its own
    params: dict[str, Any]  # all of params.yaml
    inputs: dict[str, Any]  # what decides the weights
    max_steps: int


# The code that turns numbers into other numbers.
CODE = (
    "data/batches.py",
    "model/attention.py",
    "model/gpt.py",
    "training/module.py",
    "training/optimizer.py",
    "training/schedule.py",
    "training/trainer.py",
)


def fingerprint_inputs(
    params: Params, splits: Manifest, *, precision: str, attention: str
) -> dict[str, Any]:
    """Return everything that decides the weights; the machine counts as one of a kind.

    Args:
        params: All parameters.
        splits: The manifest of the text.
        precision: What `train.precision` stands for here.
        attention: What `train.attention` stands for here.
    """
    package = Path(__file__).parents[1]
    return {
        "seed": params.seed,
        **{f"model.{key}": v for key, v in params.chosen_model.model_dump().items()},
        **{f"train.{key}": v for key, v in params.train.model_dump().items()},
        "train.precision": precision,
        "train.attention": attention,
        "vocab_size": splits.vocab_size,
        **{name: record.sha256 for name, record in splits.files.items()},
        **{f"toygpt/{name}": sha256_of(package / name) for name in CODE},
    }


def fingerprint_of(inputs: Mapping[str, Any]) -> str:
    """Return the name of a training: the digest of what decides its weights."""
    text = json.dumps(inputs, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class RunFolder:
    """The folder of a training that has not come to its end."""

    def __init__(self, folder: Path, inputs: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.inputs = dict(inputs or {})
        self._damaged_files: set[str] = set()

    @property
    def fingerprint(self) -> str:
        """The digest of what decides the weights."""
        return self.folder.name

    def describe(self) -> Description | None:
        """Return what is trained here; nothing if it had not even begun.

        Raises:
            InputError: The description is damaged.
        """
        values = self._read(DESCRIPTION_FILE)
        if values is None:
            return None
        try:
            values["started"] = float(values["started"])
            values["inputs"] = dict(values["inputs"])
            return Description(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(DESCRIPTION_FILE, error) from None

    def write_description(self, description: Description) -> None:
        """Say what is trained here."""
        self._write(DESCRIPTION_FILE, asdict(description))

    def checkpoints(self) -> list[Checkpoint]:
        """Return what LATEST.json names, the newest first.

        Raises:
            InputError: LATEST.json is damaged or lost.
        """
        values = self._read(LATEST_FILE)
        if values is None:
            if there := sorted(path.name for path in self._checkpoint_files()):
                raise InputError(
                    f"{self.folder / LATEST_FILE} is lost, and {', '.join(there)} "
                    f"cannot be trusted without it; {HOW_TO_START_OVER}"
                )
            return []
        try:
            found = [
                Checkpoint(
                    file=name_of_checkpoint(int(entry["step"])),
                    sha256=str(entry["sha256"]),
                    bytes=int(entry["bytes"]),
                    step=int(entry["step"]),
                )
                for entry in values["checkpoints"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(LATEST_FILE, error) from None
        return found

    def best_checkpoint(self) -> Checkpoint | None:
        """Return the newest checkpoint that is as it was written, if there were any.

        Raises:
            InputError: There were some, and all of them are damaged.
        """
        checkpoints = self.checkpoints()
        for number, checkpoint in enumerate(checkpoints):
            damage = self.damage_of(checkpoint)
            if damage is None:
                return checkpoint
            self._damaged_files.add(checkpoint.file)
            _say(f"WARNING: {self.path_of(checkpoint)} {damage}")
            if number + 1 < len(checkpoints):
                _say(
                    f"WARNING: going back to the checkpoint before it, "
                    f"step {checkpoints[number + 1].step:,}"
                )
        if checkpoints:
            raise InputError(
                f"no checkpoint of this training in {self.folder} can be trusted; "
                f"{HOW_TO_START_OVER}"
            )
        return None

    def path_of(self, checkpoint: Checkpoint) -> Path:
        """Return where a checkpoint lies."""
        return self.folder / checkpoint.file

    def damage_of(self, checkpoint: Checkpoint) -> str | None:
        """Say what is wrong with a checkpoint; nothing if it is as it was written."""
        path = self.path_of(checkpoint)
        if not path.is_file():
            return "is missing"
        if (size := path.stat().st_size) != checkpoint.bytes:
            return f"is damaged: {size:,} bytes instead of {checkpoint.bytes:,}"
        if sha256_of(path) != checkpoint.sha256:
            return "is damaged: its contents are not what was written"
        return None

    def save(self, step: int, write: Callable[[DigestedFile], object]) -> None:
        """Keep a checkpoint of a step, and of those before it the last one.

        Args:
            step: How many steps are done.
            write: Writes the checkpoint into the file that it is given.
        """
        path = self.folder / name_of_checkpoint(step)
        before = [
            entry
            for entry in self.checkpoints()
            if entry.step < step and entry.file not in self._damaged_files
        ]
        with new_file(path) as file:
            write(file)
        self._damaged_files.discard(path.name)
        newest = Checkpoint(path.name, file.sha256, file.num_bytes, step)
        self._commit([newest, *before[:1]])

    def _commit(self, checkpoints: list[Checkpoint]) -> None:
        """Let these checkpoints count, and no others."""
        entries = [asdict(checkpoint) for checkpoint in checkpoints]
        self._write(LATEST_FILE, {"checkpoints": entries})
        self._tidy()

    def begin(self) -> None:
        """Put in order what there is; from here on LATEST.json says what counts.

        Raises:
            InputError: LATEST.json is damaged or lost.
        """
        self._commit(self.checkpoints())

    def _tidy(self) -> None:
        """Remove what does not count: outdated checkpoints, and halves of some."""
        kept = {checkpoint.file for checkpoint in self.checkpoints()}
        for path in self._checkpoint_files():
            if path.name not in kept:
                path.unlink()
        sweep_leftovers(self.folder)

    def start_over(self) -> None:
        """Throw away what was done, but not the lock."""
        self._commit([])
        (self.folder / DESCRIPTION_FILE).unlink(missing_ok=True)

    def _checkpoint_files(self) -> Iterator[Path]:
        return self.folder.glob("step-*.ckpt")

    def remove(self) -> None:
        """Forget the training: it is finished, or not wanted any more."""
        # In one step, so that nothing of it can be taken for a damaged one.
        remove_directory(self.folder)

    def running_process(self) -> int | None:
        """Return the id of the process that trains it now, if there is one."""
        try:
            with (self.folder / LOCK_FILE).open("r") as file:
                return _holder_of(file)
        except FileNotFoundError:
            return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that trains this.

        Raises:
            InputError: Another one does.
        """
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                file = (self.folder / LOCK_FILE).open("a+")
            except FileNotFoundError:  # whoever had the folder removed it
                continue
            with file:
                if not _lock(file, fcntl.LOCK_EX):
                    if (process := _holder_of(file)) is None:
                        continue  # somebody had only asked
                    raise InputError(
                        f"this very training is running already: process {process} "
                        f"works in {self.folder}"
                    )
                if not is_at(self.folder / LOCK_FILE, file.fileno()):
                    continue
                with naming(self.folder / LOCK_FILE):
                    file.truncate(0)
                    file.write(f"{os.getpid()}\n")
                    file.flush()
                yield
                return

    def size(self) -> int:
        """Return how many bytes it takes on disk."""
        sizes = 0
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # it may be running
                sizes += path.stat().st_size
        return sizes

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        write_json(self.folder / name, {"version": VERSION, **values})

    def _read(self, name: str) -> dict[str, Any] | None:
        """Return what a file holds, without its version; nothing if it is missing."""
        try:
            values = json.loads((self.folder / name).read_text(encoding="utf-8"))
            version = values.pop("version")
        except FileNotFoundError:
            return None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(name, error) from None
        if version != VERSION:
            raise InputError(
                f"{self.folder / name} has version {version!r}, this toyGPT reads "
                f"{VERSION}: go on with the toyGPT that wrote it, or "
                f"{HOW_TO_START_OVER}"
            )
        return dict(values)

    def _damaged(self, name: str, error: Exception) -> InputError:
        advice = (
            "delete this file, and training goes on where it was, as a new run"
            if name == DESCRIPTION_FILE
            else HOW_TO_START_OVER
        )
        return InputError(f"{self.folder / name} is damaged ({error!r}); {advice}")


HOW_TO_START_OVER = (
    "to start this training over, delete the folder, or run `python . train --fresh`"
)


def name_of_checkpoint(step: int) -> str:
    """Return the name of the file in which a step is kept."""
    return f"step-{step}.ckpt"


def _lock(file: TextIO, kind: int) -> bool:
    """Lock a file until it is closed, if nobody else does."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder_of(file: TextIO) -> int | None:
    """Return the id of the process that has locked a file, if there is one."""
    if _lock(file, fcntl.LOCK_SH):
        return None
    file.seek(0)
    text = file.read().strip()
    return int(text) if text.isdigit() else 0  # it has not written its id yet


def run_folders_root(root: Path) -> Path:
    """Return the folder of all unfinished trainings of a project."""
    return root / ".toygpt" / "resume"


def list_run_folders(root: Path) -> list[RunFolder]:
    """Return all unfinished trainings of a project, running ones among them."""
    folder = run_folders_root(root)
    if not folder.is_dir():
        return []
    return [
        RunFolder(path)
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    ]


@contextmanager
def open_run_folder(
    root: Path,
    inputs: Mapping[str, Any],
    *,
    expected: str | None = None,
    fresh: bool = False,
    is_rank_zero: bool = True,
) -> Iterator[RunFolder]:
    """Yield the folder of a training, new or as it was left, held by this process.

    Args:
        root: The project that the user works in.
        inputs: What decides the weights; plain values that JSON can hold.
        expected: Fingerprint of the training that the user asked to continue.
        fresh: Whether what was done of it is thrown away.
        is_rank_zero: Whether this process speaks for all that train together. The
            others only look.

    Raises:
        InputError: Another process trains it, it is damaged, or it is not the training
            that the user asked for.
    """
    own = RunFolder(run_folders_root(root) / fingerprint_of(inputs), inputs)
    if not is_rank_zero:
        yield own
        return
    if expected is not None and expected != own.fingerprint:
        asked_for = RunFolder(run_folders_root(root) / expected)
        _adopt(asked_for, own, inputs)
    sweep_leftovers(run_folders_root(root))
    with own.locked():
        if fresh:
            own.start_over()
        own.begin()
        yield own


def _adopt(other: RunFolder, own: RunFolder, inputs: Mapping[str, Any]) -> None:
    """Go on with a training in another precision.

    Raises:
        InputError: It differs in more than that.
    """
    if not other.folder.is_dir():
        raise InputError(f"there is no unfinished training {other.fingerprint}")
    with other.locked():
        description = other.describe()
        if description is None:
            raise InputError(f"there is no unfinished training {other.fingerprint}")
        changed = differences(description.inputs, inputs)
        if changed.keys() - CHANGEABLE:
            raise InputError(
                f"this is not the training that was interrupted ({description.name}): "
                + "; ".join(
                    f"{key} was {_shown(was)} and is {_shown(now)}"
                    for key, (was, now) in changed.items()
                    if key not in CHANGEABLE
                )
            )
        if own.folder.exists():
            raise InputError(
                f"there is an unfinished training with these parameters, too; resume "
                f"that one, or delete {own.folder}"
            )
        other.folder.rename(own.folder)


def differences(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return what differs between two sets of values, by key."""
    return {
        key: (one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    }


def _shown(value: Any) -> str:
    # Of a digest the beginning is enough to see that it is another.
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
