"""What a run remembers of where it ran."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from toygpt.model.device import device_name
from toygpt.tracking.environment import describe_environment, run_name


def git(repository: Path, *arguments: str) -> str:
    """Run git, as somebody."""
    somebody = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    answer = subprocess.run(
        ["git", *somebody, *arguments],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    return answer.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository of one commit, in which we are."""
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    (tmp_path / "module.py").write_text("")
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "train.json").write_text("{}\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that git knows nothing of, in which we are."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_versions_and_the_machine_are_told(no_repository: Path) -> None:
    metadata = describe_environment("a processor")

    assert metadata["python"] == platform.python_version()
    for package in ("torch", "lightning", "transformers"):
        assert metadata[package] == version(package)
    assert metadata["device"] == device_name(torch.device("cpu")) != ""


def test_the_commit_is_told(repository: Path) -> None:
    metadata = describe_environment("a processor")

    assert metadata["git.commit"] == git(repository, "rev-parse", "HEAD")
    assert metadata["git.dirty"] == "false"


def test_changed_code_is_told(repository: Path) -> None:
    (repository / "module.py").write_text("changed = True\n")

    assert describe_environment("a processor")["git.dirty"] == "true"


def test_a_new_file_is_told(repository: Path) -> None:
    (repository / "new.py").write_text("")

    assert describe_environment("a processor")["git.dirty"] == "true"


def test_other_parameters_and_results_are_no_change_of_the_code(
    repository: Path,
) -> None:
    """Parameters are logged, and `dvc exp run -S` writes them into params.yaml."""
    (repository / "params.yaml").write_text("seed: 2\n")
    (repository / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (repository / "metrics" / "train.json").write_text('{"loss": 1}\n')
    (repository / "metrics" / "evaluate.json").write_text("{}\n")
    (repository / "texts").mkdir()
    (repository / "texts" / "input.txt").write_text("the user's own\n")

    assert describe_environment("a processor")["git.dirty"] == "false"


def test_without_a_repository_no_commit_is_told(no_repository: Path) -> None:
    metadata = describe_environment("a processor")

    assert "git.commit" not in metadata
    assert "git.dirty" not in metadata


def test_a_repository_without_a_commit_has_none_to_tell(no_repository: Path) -> None:
    git(no_repository, "init", "--quiet")

    assert "git.commit" not in describe_environment("a processor")
    assert run_name("nano", "python") == "nano-python-no-commit"


def test_without_git_no_commit_is_told(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(repository))

    assert "git.commit" not in describe_environment("a processor")
    assert run_name("nano", "python") == "nano-python-no-commit"


def test_an_experiment_is_told(
    no_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not [
        name for name in describe_environment("a processor") if name.startswith("dvc.")
    ]

    monkeypatch.setenv("DVC_EXP_NAME", "plain-goat")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "c0ffee")

    metadata = describe_environment("a processor")
    assert metadata["dvc.experiment"] == "plain-goat"
    assert metadata["dvc.baseline"] == "c0ffee"


def test_a_run_is_named_after_its_experiment(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "plain-goat")

    assert run_name("nano", "python") == "plain-goat"


def test_elsewhere_a_run_is_named_after_what_is_trained(repository: Path) -> None:
    commit = git(repository, "rev-parse", "--short", "HEAD")

    assert run_name("nano", "python") == f"nano-python-{commit}"
