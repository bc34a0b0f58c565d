"""The project that the tests of W&B log to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracking.trackers import end_wandb
from toygpt.tracking.wandb import tracker


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a project whose user is not logged in to W&B."""
    for folder in ("home", "elsewhere", "root"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    tracker._warn_of_missing_key.cache_clear()
    yield tmp_path / "root"
    end_wandb()
