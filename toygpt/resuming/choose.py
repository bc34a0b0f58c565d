"""Which of the trainings that were interrupted is to go on."""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from toygpt.pipeline.errors import InputError
from toygpt.resuming.run_folder import (
    CHANGEABLE,
    Description,
    RunFolder,
    differences,
    list_run_folders,
)

# Sections of params.yaml that have no part in the weights.
FREE_TO_CHANGE = ("runtime.", "tracking.", "evaluate.", "generate-samples.")


class Interrupted(NamedTuple):
    """A training that can go on."""

    training: RunFolder
    description: Description

    def __str__(self) -> str:
        checkpoints = self.training.checkpoints()
        step = checkpoints[0].step if checkpoints else 0
        started = datetime.fromtimestamp(self.description.started)
        return (
            f"{self.description.name} (id {self.training.fingerprint[:8]}, begun "
            f"{started:%Y-%m-%d %H:%M}, step {step:,} of "
            f"{self.description.max_steps:,})"
        )


def interrupted_trainings(root: Path) -> list[Interrupted]:
    """Return the trainings of a project that can go on.

    Raises:
        InputError: There are none.
    """
    unfinished = list_run_folders(root)
    running = [training.running_process() for training in unfinished]
    found = [
        Interrupted(training, description)
        for training, process in zip(unfinished, running, strict=True)
        if process is None and (description := training.describe()) is not None
    ]
    if found:
        return found
    if processes := [str(process) for process in running if process is not None]:
        raise InputError(
            f"nothing to resume: process {', '.join(processes)} is still training"
        )
    raise InputError("nothing to resume: no training was interrupted")


def choose(trainings: Sequence[Interrupted], wanted: str | None) -> Interrupted:
    """Return the training that the user means, and ask if there are several.

    Args:
        trainings: Those that can go on, at least one.
        wanted: Its name, or the beginning of its id.

    Raises:
        InputError: There is no such training, or nobody to ask.
    """
    found = [
        entry
        for entry in trainings
        if wanted is None
        or entry.description.name == wanted
        or entry.training.fingerprint.startswith(wanted)
    ]
    if len(found) == 1:
        return found[0]
    listed = _listed(found or trainings)
    if not found:
        raise InputError(f"no interrupted training is called {wanted!r}:\n{listed}")
    if not sys.stdin.isatty():
        raise InputError(
            f"several trainings were interrupted; say which, by its id:\n{listed}"
        )
    print(f"interrupted trainings:\n{listed}", file=sys.stderr)
    while True:
        print("which one? [number] ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if not answer:
            raise InputError("no training was chosen")
        if answer.strip().isdigit() and 1 <= int(answer) <= len(found):
            return found[int(answer) - 1]


def _listed(trainings: Sequence[Interrupted]) -> str:
    """Return a numbered line for each training, with what sets it apart."""
    inputs = [entry.description.inputs for entry in trainings]
    keys = {key for other in inputs for key in differences(inputs[0], other)}
    lines = []
    for number, (entry, values) in enumerate(zip(trainings, inputs, strict=True), 1):
        own = [
            f"{key} {values.get(key)}"
            for key in sorted(keys)
            if len(str(values.get(key))) != 64  # a digest tells nobody anything
        ]
        lines.append(f"  {number}  {entry}" + (f": {', '.join(own)}" if own else ""))
    return "\n".join(lines)


def check_changes(description: Description, changes: Mapping[str, Any]) -> None:
    """Refuse what would make another training of it, before DVC writes anything.

    Args:
        description: Of the training that is to go on.
        changes: What the user wants changed, by the paths in params.yaml.

    Raises:
        InputError: One of them decides the weights, and not only the precision.
    """
    from toygpt.pipeline.params import flatten

    before = dict(flatten(description.params))
    changed = [
        f"{key} was {before.get(key)} and would be {value}"
        for key, value in changes.items()
        if before.get(key) != value
        and key not in CHANGEABLE
        and not key.startswith(FREE_TO_CHANGE)
    ]
    if changed:
        raise InputError(
            f"that would not be the training that was interrupted "
            f"({description.name}): {'; '.join(changed)}"
        )
