"""A copy of this project that a test may run, and change, and break."""

import os
import shutil
import subprocess
import sys
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.isolation import can_isolate, isolated

PROJECT = Path(__file__).resolve().parents[1]

# How long a test waits for the state that it asserts, beside any other load.
PATIENCE_SECONDS = 600.0

# Variables of a surrounding `dvc repro`, tracker, hub or Slurm job.
SETTINGS_FROM_OUTSIDE = ("DVC_", "MLFLOW_", "WANDB_", "HF_", "SLURM_")

# Secrets that no file may hold: `build` runs the pipeline with them.
SECRETS = {
    "HF_TOKEN": "hf_planted0123456789",
    "WANDB_API_KEY": "planted012345678901234567890123456789012",
    "DATABASE_URL": "postgres://someone:planted-in-an-address@example.com/base",
}
REMOTE = "https://someone:planted-in-the-remote@example.com/toygpt.git"
PLANTED = [*SECRETS.values(), "planted-in-the-remote"]

# So small that a stage takes little longer than starting Python does.
TINY = {
    "seed": 1337,
    "corpus": "python",
    "model": "nano",
    "tracking.mlflow": True,
    "tracking.wandb": "offline",
    "tracking.project": "toygpt",
    "train.optimizer": "muon",
    "train.learning_rate": 2e-3,
    "download.max_documents": 40,
    "tokenize.vocab_size": 300,
    "models.nano.num_layers": 1,
    "models.nano.num_heads": 2,
    "models.nano.block_size": 16,
    "models.nano.embed_dim": 8,
    "train.batch_size": 4,
    "train.max_tokens": 384,
    "train.warmup_tokens": 64,
    "train.decay_tokens": 128,
    "train.validate_every_tokens": 128,
    "train.validation_tokens": 128,
    "split.validation_fraction": 0.2,
    "split.test_fraction": 0.2,
    "evaluate.batch_size": 512,
    "evaluate.overlap_fraction": 0.0,
    "generate-samples.max_new_tokens": 4,
    "runtime.accelerator": "cpu",
}


# For tests that ask nothing of the trackers: the process that syncs them takes longer
# to start than a stage of such a project does.
UNTRACKED = {"tracking.mlflow": False, "tracking.wandb": "disabled"}


class Workspace:
    """A Git repository with the project in it, and the means to run commands there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._kept = root.with_name(f"{root.name}-kept")
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(SETTINGS_FROM_OUTSIDE)
            and name != "PYTHONDONTWRITEBYTECODE"
        } | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(root.parent / "dvc-site-cache"),
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@example.com",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@example.com",
            "OMP_NUM_THREADS": "1",
        }

    @property
    def here(self) -> dict[str, Any]:
        """How `subprocess` starts a command here: folder, environment, no input."""
        stdin = subprocess.DEVNULL
        return {"cwd": self.root, "env": self.environment, "stdin": stdin}

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Move the process of the test here, with these variables."""
        monkeypatch.chdir(self.root)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)

    def run(
        self, *command: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its output is shown if it fails."""
        done = subprocess.run(
            command,
            **self.here,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        if check and done.returncode:
            output = f"{done.stdout}\n{done.stderr}"
            raise AssertionError(f"{command} ended with {done.returncode}:\n{output}")
        return done

    def dvc(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run DVC."""
        return self.run("dvc", *words, check=check)

    def commit(self, message: str) -> None:
        """Commit everything that Git does not ignore."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "--message", message)

    def copy_to(self, root: Path) -> "Workspace":
        """Copy all files, those included that Git and DVC ignore."""
        root.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", str(self.root), str(root)], check=True)
        return Workspace(root)

    def keep(self, name: str) -> None:
        """Remember all files as they are now."""
        shutil.copytree(self.root, self._kept / name, symlinks=True)

    def put_back(self, name: str) -> None:
        """Make all files again what they were."""
        shutil.rmtree(self.root)
        shutil.copytree(self._kept / name, self.root, symlinks=True)

    def set_params(self, values: dict[str, Any]) -> None:
        """Change params.yaml as an editor would."""
        yaml = YAML()
        path = self.root / "params.yaml"
        params = yaml.load(path)
        for key, value in values.items():
            *sections, name = key.split(".")
            section = reduce(getitem, sections, params)
            assert name in section, f"{key} is not in params.yaml"
            section[name] = value
        yaml.dump(params, path)


def project_files(*options: str) -> list[Path]:
    """Return the files that `git ls-files` lists."""
    command = ["git", "ls-files", *options]
    listing = subprocess.check_output(command, cwd=PROJECT, text=True)
    paths = (PROJECT / name for name in listing.splitlines())
    return [path for path in paths if path.is_file()]


def copy_project(root: Path) -> Workspace:
    """Copy what a clone would hold, the uncommitted changes included."""
    for path in project_files("--cached", "--others", "--exclude-standard"):
        copy = root / path.relative_to(PROJECT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    workspace = Workspace(root)
    workspace.run("git", "init", "--quiet", "--initial-branch", "main")
    workspace.commit("the project")
    return workspace


def tiny_project(root: Path) -> Workspace:
    """Copy the project, with a corpus and a model that take no time."""
    workspace = copy_project(root)
    workspace.set_params(TINY)
    workspace.commit("tiny")
    return workspace


def build(root: Path) -> Workspace:
    """Run the whole pipeline of a tiny project, with secrets and without a network.

    Beside the project lie the connections that were tried, if this machine has strace,
    and the folder in which temporary files were made.
    """
    workspace = tiny_project(root)
    temporary_of(workspace).mkdir()
    workspace.environment |= SECRETS | {"TMPDIR": str(temporary_of(workspace))}
    workspace.run("git", "remote", "add", "origin", REMOTE)
    if can_isolate():
        workspace.run(*isolated("dvc", "repro", trace=trace_of(workspace)))
    else:
        workspace.dvc("repro")
    workspace.commit("built")
    return workspace


def mlflow_runs(workspace: Workspace) -> list[Any]:
    """Return all runs that MLflow has, the newest first."""
    from mlflow import MlflowClient

    client: Any = MlflowClient(f"sqlite:///{workspace.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("toygpt")
    return list(client.search_runs([experiment.experiment_id]))


def trace_of(workspace: Workspace) -> Path:
    """Return the file that lists the connections which `build` tried."""
    return workspace.root.parent / "connections.txt"


def temporary_of(workspace: Workspace) -> Path:
    """Return the folder in which `build` makes its temporary files."""
    return workspace.root.parent / "temporary"
