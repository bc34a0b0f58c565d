"""What is checked before DVC is asked to run an experiment."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project import PROJECT
from toygpt.cli import dvc as experiment
from toygpt.cli.dvc import run_experiment
from toygpt.pipeline.errors import InputError


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    """Return how to run an experiment; it says whether DVC was asked to."""
    monkeypatch.setattr(experiment, "run_dvc", lambda *_, **__: 0)

    def run(root: Path, *, is_temporary: bool = False) -> bool:
        return not run_experiment(root, {}, is_temporary=is_temporary, settings={})

    return run


def repository(root: Path) -> Path:
    """Make a repository that holds params.yaml."""
    root.mkdir()
    shutil.copy(PROJECT / "params.yaml", root)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        [*identity, "commit", "--quiet", "--message", "first"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Git not know who the user is."""
    for variable in os.environ:
        if variable.startswith("GIT_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.mark.usefixtures("nobody")
def test_who_the_user_is_must_be_known_once_there_are_edits_to_put_aside(
    tmp_path: Path, run: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without edits DVC gets by, as on a machine that only runs experiments."""
    root = repository(tmp_path / "project")
    assert run(root)
    with (root / "params.yaml").open("a") as file:
        file.write("# an edit\n")

    with pytest.raises(InputError) as refused:
        run(root)

    assert str(refused.value) == (
        "Git does not know your name and email, which DVC's experiments need: "
        'git config --global user.name "Your Name" && '
        "git config --global user.email you@example.com"
    )
    monkeypatch.setenv("GIT_COMMITTER_NAME", "test")
    with pytest.raises(InputError, match="does not know your email, which"):
        run(root)
    subprocess.run(["git", "config", "user.email", "a@b.c"], cwd=root, check=True)
    assert run(root)


@pytest.mark.parametrize("part", ["#", "?", "ü", "%20", "%2F"])
def test_a_path_that_is_no_address_keeps_experiments_in_the_workspace(
    tmp_path: Path, run: Callable[..., bool], part: str
) -> None:
    root = repository(tmp_path / f"my{part}project")

    with pytest.raises(
        InputError, match=rf"--temp and queue .* the {re.escape(part)} in its"
    ):
        run(root, is_temporary=True)

    assert run(root)


def test_other_paths_do_not(tmp_path: Path, run: Callable[..., bool]) -> None:
    assert run(repository(tmp_path / "a b 100%;+'~"), is_temporary=True)
