"""What was not trained to its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from toygpt.doctor.finding import Finding, Line, number_of, readable_size
from toygpt.pipeline.errors import InputError
from toygpt.resuming.run_folder import RunFolder, list_run_folders


def check_trainings(root: Path) -> Iterator[Line]:
    """See what was not trained to its end; none of it is ever thrown away here."""
    trainings = [entry for entry in list_run_folders(root) if entry.folder.is_dir()]
    for training in trainings:
        yield from _training(root, training, is_only_one=len(trainings) == 1)
    if not trainings:
        yield "none is unfinished"


def _training(root: Path, training: RunFolder, *, is_only_one: bool) -> Iterator[Line]:
    running = training.running_process()
    folder = training.folder.relative_to(root)
    try:
        description = training.describe()
        checkpoints = training.checkpoints()
    except InputError as error:
        yield Finding(str(error), "python . train --fresh")
        return
    if description is None:
        if running is None and checkpoints:
            problem = f"{folder} has lost its training.json; the same command goes on"
            yield Finding(problem, "python . train")
        elif running is None:
            yield Finding(f"{folder} is of no training", f"rm -r {folder}")
        return
    step = checkpoints[0].step if checkpoints else 0
    what = (
        f"{description.name}: step {step:,} of {description.max_steps:,}, "
        f"{readable_size(training.size())}"
    )
    if running is not None:
        yield f"{what}; process {running} trains it now"
        return
    damaged = {
        entry.file: damage
        for entry in checkpoints
        if (damage := training.damage_of(entry)) is not None
    }
    sound = [entry for entry in checkpoints if entry.file not in damaged]
    if checkpoints and not sound:
        remedy, instead = "python . train --fresh", "it has to start over"
    else:
        remedy = "python . resume"
        remedy += "" if is_only_one else f" {training.fingerprint[:8]}"
        instead = f"it goes on from step {sound[0].step:,}" if sound else ""
    yield Finding(f"{what}; interrupted {_age(training.folder)} ago", remedy)
    for file, damage in damaged.items():
        yield Finding(f"{folder / file} {damage}; {instead}", remedy)


def _age(folder: Path) -> str:
    """Return how long ago anything was written into a folder."""
    latest = max(path.stat().st_mtime for path in folder.iterdir())
    seconds = max(0.0, time.time() - latest)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return number_of(int(seconds // length), unit)
    return number_of(int(seconds), "second")
