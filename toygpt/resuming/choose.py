"""Choose which of the interrupted trainings to resume."""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.json_file import WrongVersionError
from toygpt.resuming.description import Description
from toygpt.resuming.fingerprint import CHANGEABLE, differences, is_digest
from toygpt.resuming.run_folder import RunFolder, list_run_folders

# Sections of params.yaml that are not inputs of the weights.
FREE_TO_CHANGE = ("runtime.", "tracking.", "evaluate.", "generate-samples.")


class Interrupted(NamedTuple):
    """A training that can be resumed."""

    training: RunFolder
    description: Description

    def __str__(self) -> str:
        checkpoints = self.training.checkpoints()
        step = checkpoints[0].step if checkpoints else 0
        started = datetime.fromtimestamp(self.description.started)
        return (
            f"{self.description.name} (id {self.training.fingerprint[:8]}, started "
            f"{started:%Y-%m-%d %H:%M}, step {step:,} of "
            f"{self.description.max_steps:,})"
        )


def interrupted_trainings(root: Path) -> list[Interrupted]:
    """Return the trainings of a project that can be resumed.

    Raises:
        InputError: There are none.
    """
    found = []
    obstacles = []
    for training in list_run_folders(root):
        if (holder := training.holder()) is not None:
            obstacles.append(f"{holder} is still training")
            continue
        try:
            description = training.describe()
        except WrongVersionError as error:
            obstacles.append(str(error))
            continue
        if description is not None:
            found.append(Interrupted(training, description))
    if not found:
        reasons = obstacles or ["no training was interrupted"]
        raise InputError(f"nothing to resume: {'; '.join(reasons)}")
    return found


def choose(trainings: Sequence[Interrupted], wanted: str | None) -> Interrupted:
    """Return the training that the user wants, and ask if there are several.

    Args:
        trainings: The interrupted trainings, at least one.
        wanted: Its name, or the start of its id.

    Raises:
        InputError: There is no such training, or no terminal to ask at.
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
    """Return a numbered line for each training, with its inputs that differ."""
    inputs = [entry.description.inputs for entry in trainings]
    keys = {key for other in inputs for key in differences(inputs[0], other)}
    lines = []
    for number, (entry, values) in enumerate(zip(trainings, inputs, strict=True), 1):
        own = [
            f"{key} {values.get(key)}"
            for key in sorted(keys)
            if not is_digest(values.get(key))
        ]
        lines.append(f"  {number}  {entry}" + (f": {', '.join(own)}" if own else ""))
    return "\n".join(lines)


def check_changes(description: Description, changes: Mapping[str, Any]) -> None:
    """Refuse changes that would make another training of it, before DVC writes.

    Args:
        description: Of the training to resume.
        changes: The user's changes, each value by its path in params.yaml.

    Raises:
        InputError: A change is an input of the fingerprint other than the precision.
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
