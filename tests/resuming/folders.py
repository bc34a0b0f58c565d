"""Folders of interrupted trainings, as tests need them."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from toygpt.resuming.checkpoint import CheckpointFolder
from toygpt.resuming.description import Description
from toygpt.resuming.fingerprint import fingerprint_of
from toygpt.resuming.run_folder import RunFolder, open_run_folder, run_folders_root

INPUTS: dict[str, Any] = {"seed": 1, "train.precision": "32-true", "train.lr": 0.5}
OTHER_PRECISION = INPUTS | {"train.precision": "bf16-mixed"}
FINGERPRINT = fingerprint_of(INPUTS)
DESCRIPTION = Description(
    name="nano",
    run="20260101-000000-abcdef",
    started=1.5,
    experiment=None,
    is_temporary=False,
    params={"seed": 1},
    inputs=INPUTS,
    max_steps=10,
)


def steps_of(folder: CheckpointFolder) -> list[int]:
    """Return the steps of the checkpoints that count."""
    return [checkpoint.step for checkpoint in folder.checkpoints()]


def files_of(folder: CheckpointFolder) -> list[str]:
    """Return the names of all files."""
    return sorted(path.name for path in folder.folder.iterdir())


def interrupt(
    root: Path, inputs: dict[str, Any] = INPUTS, **description: Any
) -> RunFolder:
    """Leave a training after its third step."""
    changes = {"inputs": inputs, **description}
    with open_run_folder(root, inputs) as training:
        training.write_description(replace(DESCRIPTION, **changes))
        training.save(3, {})
    return training


def leave_outdated(root: Path) -> Path:
    """Return the folder of a training that a toyGPT before this format left behind."""
    folder = run_folders_root(root) / ("ab" * 16)
    folder.mkdir(parents=True)
    description = asdict(DESCRIPTION)
    description["deciding"] = description.pop("inputs")
    entry = {"file": "step-20.ckpt", "sha256": "0" * 64, "bytes": 7, "step": 20}
    for name, text in {
        "LATEST.json": json.dumps({"version": 1, "checkpoints": [entry]}),
        "training.json": json.dumps({"version": 1, **description}),
        "step-20.ckpt": "weights",
        "lock": "123\n",
    }.items():
        (folder / name).write_text(text)
    return folder
