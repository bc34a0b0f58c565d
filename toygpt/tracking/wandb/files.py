"""Read the runs that Weights & Biases has on disk: it may have lost what was logged."""

import glob
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toygpt.tracking.wandb.log import read_records


@dataclass
class WandbRun:
    """A run, as far as it is in one file."""

    run_id: str = ""
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)  # the type, by name
    exit_code: int | None = None


def read_runs(folder: Path, run_id: str | None = None) -> list[WandbRun]:
    """Return the runs in `folder`/wandb, one for each time that a run was opened.

    Args:
        folder: The project that the user works in, or WANDB_DIR.
        run_id: Of one run; by default, all are read.
    """
    return [_read(path) for path in files_of_runs(folder, run_id)]


def files_of_runs(folder: Path, run_id: str | None = None) -> list[Path]:
    """Return the paths of the runs' files, oldest first."""
    # The folder's name ends with the id, or with a number behind it if the run has been
    # opened twice in one second.
    pattern = "*" if run_id is None else glob.escape(run_id)
    files = (folder / "wandb").glob(f"*run-*/run-{pattern}.wandb")
    return sorted(files, key=lambda path: path.stat().st_mtime)


def folders_of(folder: Path, run_id: str) -> set[Path]:
    """Return the paths of a run's folders in `folder`/wandb, even without a file."""
    name = rf"(offline-)?run-\d{{8}}_\d{{6}}-{re.escape(run_id)}(-\d+)?"
    file = f"run-{run_id}.wandb"  # another run's id may end with a number
    return {
        path
        for path in (folder / "wandb").iterdir()
        if re.fullmatch(name, path.name)
        and all(it.name == file for it in path.glob("*.wandb"))
    }


def _read(path: Path) -> WandbRun:
    run = WandbRun()
    for record in read_records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.run_id = record.run.run_id
            run.name = record.run.display_name
            run.config |= _values(record.run.config.update)
        elif kind == "config":
            run.config |= _values(record.config.update)
        elif kind == "history":
            run.history.append(_values(record.history.item))
        elif kind == "summary":
            run.summary |= _values(record.summary.update)
        elif kind == "artifact":
            run.artifacts[record.artifact.name] = record.artifact.type
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _values(items: Iterable[Any]) -> dict[str, Any]:
    """Return the items by their names, but W&B's own, which begin with `_`."""
    named = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for item in items
    }
    return {name: value for name, value in named.items() if not name.startswith("_")}
