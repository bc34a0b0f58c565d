"""A project of a few kB, whose stages take a moment each."""

from pathlib import Path
from typing import Any

from tests.project import Workspace, tiny_project
from toygpt.pipeline.files import write_text

SMALL: dict[str, Any] = {
    "corpus": "files",
    "tokenize.vocab_size": 260,
    "models.nano.block_size": 4,
    "tracking.mlflow": False,
    "tracking.wandb": "disabled",
}


def small_project(root: Path, changes: dict[str, Any]) -> Workspace:
    """Return the project with a dozen texts; nothing has run."""
    workspace = tiny_project(root)
    workspace.set_params(SMALL | changes)
    (root / "dvc.lock").unlink()  # to read it would be half of each run
    for number in range(12):
        text = f"def number_{number}(self):\n    return {number**9}\n" * 2
        write_text(root / "texts" / str(number) / "a.txt", text)
    return workspace
