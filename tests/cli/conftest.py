"""A command of toyGPT in the process of the test, and a project for it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.project import PROJECT
from toygpt.cli import main


class Output(NamedTuple):
    """The exit code of a command, and its two streams."""

    code: int
    out: str
    err: str


Toygpt = Callable[..., Output]


def assert_refused(output: Output, *parts: str) -> None:
    """Check that a mistake ends the command with one message, which has these parts.

    Nothing else is printed, not even by the DVC of `folder`: it was not started.
    """
    assert (output.code, output.out) == (2, "")
    assert output.err.startswith(("error: ", "usage: "))
    assert output.err.count("error: ") == 1
    assert [part for part in parts if part not in output.err] == []


@pytest.fixture
def toygpt(capfd: pytest.CaptureFixture[str]) -> Toygpt:
    """Return a function that runs a command in this process."""

    def run(*arguments: object) -> Output:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse knows no other way
            assert isinstance(ended.code, int)
            code = ended.code
        return Output(code, *capfd.readouterr())

    return run


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
