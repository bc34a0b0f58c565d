"""Fixtures of the command line: commands in this process, and small projects."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Output, Toygpt
from tests.project import PROJECT
from toygpt.cli import main


@pytest.fixture
def toygpt(capsys: pytest.CaptureFixture[str]) -> Toygpt:
    """Return a function that runs a command in this process."""

    def run(*arguments: object) -> Output:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse knows no other way
            assert isinstance(ended.code, int)
            code = ended.code
        return Output(code, *capsys.readouterr())

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory: a project in which nothing has run."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def fake_dvc(folder: Path) -> Path:
    """Return that project, in which DVC only prints how it was started."""
    (folder / "dvc.py").write_text(
        "import os, sys\n"
        "print(sys.argv[1:], os.getenv('TOYGPT_RESUME'), os.getenv('TOYGPT_FRESH'))\n"
    )
    return folder


@pytest.fixture
def no_dvc(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return that project; DVC must not start in it, and params.yaml not change."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("DVC was started")

    before = {path: path.read_bytes() for path in folder.glob("*.yaml")}
    monkeypatch.setattr(subprocess, "Popen", fail)
    yield folder
    assert {path: path.read_bytes() for path in before} == before
    assert not (folder / ".dvc").exists()
