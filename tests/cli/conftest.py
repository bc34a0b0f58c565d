"""A project for a command of toyGPT, and how a mistake ends the command."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import Output
from tests.project import PROJECT


def assert_refused(output: Output, *parts: str) -> None:
    """Check that a mistake ends the command with one message, which has these parts.

    Nothing else is printed, not even by the DVC of `folder`: it was not started.
    """
    assert (output.code, output.out) == (2, "")
    assert output.err.startswith(("error: ", "usage: "))
    assert output.err.count("error: ") == 1
    assert [part for part in parts if part not in output.err] == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory: a project in which DVC prints how it is started."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, root)
    (root / "dvc.py").write_text(
        "import os, sys\n"
        "print(sys.argv[1:], os.getenv('TOYGPT_RESUME'), os.getenv('TOYGPT_FRESH'))\n"
    )
    monkeypatch.chdir(root)
    return root
