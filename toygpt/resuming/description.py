"""training.json: which training a folder holds, and how to continue it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toygpt.pipeline.files import write_json
from toygpt.pipeline.json_file import WrongVersionError, read_json
from toygpt.resuming.checkpoint import VERSION

DESCRIPTION_FILE = "training.json"


@dataclass(frozen=True)
class Description:
    """A training, and how to continue it."""

    name: str  # as the trackers show it
    run: str  # id of its record, see tracking/record.py
    started: float  # seconds since 1970
    experiment: str | None  # name of the DVC experiment, if it is one
    is_temporary: bool  # whether the experiment runs in a copy of the project
    params: dict[str, Any]  # all of params.yaml
    inputs: dict[str, Any]  # inputs of the fingerprint
    max_steps: int


def read_description(folder: Path) -> Description | None:
    """Return the description of the training in a folder, or None where there is none.

    Raises:
        WrongVersionError: Another version of toyGPT wrote the folder.
        InputError: The description is damaged.
    """
    advice = "delete this file, and training continues where it was, as a new run"
    try:
        return read_json(
            folder / DESCRIPTION_FILE, Description, version=VERSION, advice=advice
        )
    except FileNotFoundError:
        return None
    except WrongVersionError as error:
        raise WrongVersionError(
            f"{folder} was written by another version of toyGPT, and this one cannot "
            f"read its checkpoints: continue with that version, or delete the folder "
            f"and train from the start"
        ) from error


def write_description(folder: Path, description: Description) -> None:
    """Write the description of the training in a folder."""
    values = {"version": VERSION, **asdict(description)}
    write_json(folder / DESCRIPTION_FILE, values)
