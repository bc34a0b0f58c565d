"""What every test shares: one thread, checked shapes, no settings from outside."""

import os
import tempfile
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Before anything of toygpt is imported: calls of the network are checked against their
# annotations, the tensor shapes among them.
install_import_hook(["toygpt.model", "toygpt.data.batches"], "beartype.beartype")

import torch  # noqa: E402

from tests.project import SETTINGS_FROM_OUTSIDE  # noqa: E402

# On small models threads cost more than they bring.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a surrounding `dvc repro`, tracker or hub from leaking into a test."""
    for variable in os.environ:
        if variable.startswith(SETTINGS_FROM_OUTSIDE):
            monkeypatch.delenv(variable)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which temporary files are made."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
