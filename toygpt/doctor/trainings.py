"""Trainings that were interrupted, or run now."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from toygpt.doctor.finding import Finding, Line, number_of, readable_size
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.json_file import WrongVersionError
from toygpt.resuming.run_folder import RunFolder, list_run_folders


def check_trainings(root: Path) -> Iterator[Line]:
    """Check each training that has not ended; none is ever removed here."""
    trainings = list_run_folders(root)
    for training in trainings:
        yield from _training(root, training, is_only_one=len(trainings) == 1)
    if not trainings:
        yield "none was interrupted"


def _training(root: Path, training: RunFolder, *, is_only_one: bool) -> Iterator[Line]:
    holder = training.holder()
    folder = training.folder.relative_to(root)
    try:
        description = training.describe()
        checkpoints = training.checkpoints()
    except WrongVersionError as error:
        if holder is not None:
            yield f"{folder}: {holder} trains it now, by another version of toyGPT"
        else:
            yield Finding(str(error), f"rm -r {folder}")
        return
    except InputError as error:
        yield Finding(str(error), "python . train --fresh")
        return
    if description is None:
        if holder is None and checkpoints:
            problem = f"{folder} has lost its training.json; the same command resumes"
            yield Finding(problem, "python . train")
        elif holder is None:
            yield Finding(f"{folder} holds no training", f"rm -r {folder}")
        return
    step = checkpoints[0].step if checkpoints else 0
    what = (
        f"{description.name}: step {step:,} of {description.max_steps:,}, "
        f"{readable_size(_size(training.folder))}"
    )
    if holder is not None:
        yield f"{what}; {holder} trains it now"
        return
    damages = {entry: training.damage_of(entry) for entry in checkpoints}
    undamaged = [entry.step for entry, damage in damages.items() if damage is None]
    if checkpoints and not undamaged:
        command, outcome = "python . train --fresh", "it has to start over"
    else:
        command = "python . resume"
        command += "" if is_only_one else f" {training.fingerprint[:8]}"
        outcome = f"it resumes from step {undamaged[0]:,}" if undamaged else ""
    yield Finding(f"{what}; interrupted {_age(training.folder)} ago", command)
    for damage in damages.values():
        if damage is not None:
            yield Finding(f"{folder}/{damage}; {outcome}", command)


def _size(folder: Path) -> int:
    """Return how many bytes the files of a folder have."""
    sizes = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # the training may be running
            sizes += path.stat().st_size
    return sizes


def _age(folder: Path) -> str:
    """Return how long ago a file of a folder was written last."""
    latest = max(path.stat().st_mtime for path in folder.iterdir())
    seconds = max(0.0, time.time() - latest)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return number_of(int(seconds // length), unit)
    return number_of(int(seconds), "second")
