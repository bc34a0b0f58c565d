"""A run's metadata says where it ran."""

import platform
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.files import write_files
from toygpt.pipeline.git import git
from toygpt.tracking.environment import describe_environment, run_name

CODE_AND_RESULTS = ("module.py", "params.yaml", "dvc.lock", "metrics/train.json")


@pytest.fixture
def repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with code and results, the working directory."""
    write_files(repository, dict.fromkeys(CODE_AND_RESULTS, ""))
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "second")
    monkeypatch.chdir(repository)
    return repository


@pytest.fixture
def no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder outside any repository, the working directory."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_metadata_has_versions_and_the_device(no_repository: Path) -> None:
    assert describe_environment("a processor") == {
        "python": platform.python_version(),
        **{
            name: version(name)
            for name in ("torch", "lightning-fabric", "transformers")
        },
        "device": "a processor",
    }


@pytest.mark.parametrize(
    ("changed", "is_dirty"),
    [
        ([], "false"),
        (["module.py"], "true"),
        (["new.py"], "true"),
        # `dvc exp run -S` writes params.yaml; the stages and the user write the rest.
        ([*CODE_AND_RESULTS[1:], "metrics/new.json", "texts/input.txt"], "false"),
    ],
)
def test_metadata_has_the_commit_and_whether_the_code_differs(
    repository: Path, changed: list[str], is_dirty: str
) -> None:
    write_files(repository, dict.fromkeys(changed, "changed\n"))

    metadata = describe_environment("a processor")

    assert metadata["git.commit"] == git(repository, "rev-parse", "HEAD")
    assert metadata["git.dirty"] == is_dirty


@pytest.mark.parametrize("lacks", ["a commit", "git"])
def test_without_a_commit_metadata_has_none(
    no_repository: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    git(no_repository, "init", "--quiet")
    if lacks == "git":
        monkeypatch.setenv("PATH", str(no_repository))

    assert not {"git.commit", "git.dirty"} & describe_environment("a processor").keys()
    assert run_name("nano", "python") == "nano-python-no-commit"


def test_a_run_has_the_name_and_the_baseline_of_its_experiment(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git(repository, "rev-parse", "--short", "HEAD")
    assert run_name("nano", "python") == f"nano-python-{commit}"

    monkeypatch.setenv("DVC_EXP_NAME", "plain-goat")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "c0ffee")
    monkeypatch.setenv("MLFLOW_RUN_NAME", "mine")

    assert run_name("nano", "python") == "plain-goat"
    metadata = describe_environment("a processor")
    assert metadata["dvc.experiment"] == "plain-goat"
    assert metadata["dvc.baseline"] == "c0ffee"
    assert metadata["mlflow.runName"] == "mine"
