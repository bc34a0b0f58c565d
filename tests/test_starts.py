"""Python started in an odd place, or without the packages, says what to do instead."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import PROJECT

STAGES = PROJECT / "stages"


def start(folder: Path, *arguments: str, **variables: str) -> tuple[int, list[str]]:
    """Start Python; return its exit code and the lines that it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


@pytest.mark.parametrize(
    ("folder", "arguments"),
    [(PROJECT, [f"stages/{path.name}"]) for path in STAGES.glob("[a-z]*.py")]
    + [
        (STAGES, ["train.py"]),
        (STAGES, ["-m", "stages.train"]),
        (STAGES, ["-m", "train"]),
        (STAGES, [".", "train"]),
        (STAGES, ["-m", "dvc", "status"]),
    ],
    ids=str,
)
def test_where_tokenize_is_not_the_standard_library_s_one_line_says_how_to_run_a_stage(
    folder: Path, arguments: list[str]
) -> None:
    message = (
        "error: stages/tokenize.py hides a module of the standard library from this "
        "command: run it in the project's folder, and a stage as "
        "`python -m stages.NAME`"
    )

    assert start(folder, *arguments) == (1, [message])


@pytest.mark.parametrize("variables", [{}, {"DVC_STAGE": "any"}], ids=str)
@pytest.mark.parametrize(
    "command", ["-m stages.download", "-m stages.train", ". train", ". doctor"]
)
def test_a_python_without_the_packages_says_how_to_get_one_that_has_them(
    command: str, variables: dict[str, str]
) -> None:
    code, (line,) = start(PROJECT, "-S", *command.split(), **variables)

    assert code == 1
    assert line.startswith(f"error: {sys.executable} has no package ")
    assert "put `uv run` before the command, or activate" in line
