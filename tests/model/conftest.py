"""A model directory, written once for all tests that read it, or damage a copy."""

import shutil
from pathlib import Path

import pytest

from tests.model.saved import Saved, save


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save(tmp_path_factory.mktemp("saved"), end_of_text_id=42)


@pytest.fixture
def copy(saved: Saved, tmp_path: Path) -> Path:
    """Return a copy of the model directory, for one test to damage."""
    return Path(shutil.copytree(saved.directory, tmp_path / "copy"))
