"""A project of a few kB, and what a training of it has written."""

from pathlib import Path
from typing import Any

from tests.project import UNTRACKED, Workspace, tiny_project
from toygpt.model.huggingface import weights_digest
from toygpt.pipeline.files import sha256_of, write_text

SMALL: dict[str, Any] = {
    "corpus": "files",
    "tokenize.vocab_size": 260,
    "models.nano.block_size": 4,
    **UNTRACKED,
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


def results_of(root: Path) -> dict[str, str]:
    """Return the digests of everything that a finished training has written."""
    files = [root / "metrics/train.json", *(root / "reports/train").iterdir()]
    digests = {path.name: sha256_of(path) for path in files}
    return {"weights": weights_digest(root / "models/toygpt"), **digests}
