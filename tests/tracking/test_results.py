"""Models that were trained elsewhere get runs, from the pipeline's results."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from tests.project import Workspace, tiny_project
from tests.tracking.trackers import (
    mlflow_rows,
    mlflow_runs,
    rows_of,
    tracked_by,
    wandb_rows,
)
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.git import git
from toygpt.tracking.backfill import track
from toygpt.tracking.record import Record, all_infos
from toygpt.tracking.results import all_results
from toygpt.tracking.wandb_files import read_runs


@pytest.fixture
def clone(tmp_path: Path) -> Workspace:
    """Return a clone that pulled a model, and an experiment that is another model.

    No tracker has any of this, nor had where it was trained; now they are wanted.
    """
    (tmp_path / "project").mkdir()
    project = tiny_project(tmp_path / "project")
    project.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    project.set_params({"tracking.mlflow": False, "tracking.wandb": "disabled"})
    project.commit("a remote")
    project.dvc("repro")
    project.commit("trained")
    project.dvc("exp", "run", "-n", "one", "-S", "train.learning_rate=3e-3")
    project.dvc("push", "--all-commits")
    origin = str(tmp_path / "origin.git")
    project.run("git", "init", "--quiet", "--bare", "--initial-branch", "main", origin)
    project.run("git", "remote", "add", "origin", origin)
    project.run("git", "push", "--quiet", "origin", "main")
    project.dvc("exp", "push", "origin", "one")
    project.run("git", "clone", "--quiet", origin, str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    clone.environment["DVC_SITE_CACHE_DIR"] = str(tmp_path / "dvc-site-cache-2")
    clone.dvc("pull")
    clone.dvc("exp", "pull", "origin", "one")
    clone.set_params({"tracking.mlflow": True, "tracking.wandb": "offline"})
    return clone


def check_that_all_is_there(root: Path) -> None:
    """Compare the trackers' runs with the pipeline's results."""
    runs = {run.info.run_name: run for run in mlflow_runs(root, "toygpt")}
    rates = {name: run.data.params["train.learning_rate"] for name, run in runs.items()}
    assert {name: float(rate) for name, rate in rates.items()} == {
        "nano-python-restored": 2e-3,
        "one": 3e-3,
    }
    records = {info.name: Record(path) for path, info in all_infos(root)}
    for name, run in runs.items():
        expected = rows_of(records[name])
        assert len(expected) > 10
        assert [row for row in mlflow_rows(root, run) if row[0]] == expected
        assert wandb_rows(root, records[name].info.id) == expected
        (in_wandb,) = read_runs(root, records[name].info.id)
        assert (run.info.status, in_wandb.exit_code) == ("FINISHED", 0)
        assert in_wandb.summary["test_loss"] == run.data.metrics["test_loss"]
        assert in_wandb.artifacts.keys() >= {f"model-{in_wandb.run_id}"}
        assert run.data.metrics.keys() >= {"parameters", "steps", "test_loss"}
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        assert (folder / "model" / "model.safetensors").is_file()
        assert (folder / "samples" / "samples.md").is_file()
    restored = runs["nano-python-restored"]
    evaluation = json.loads((root / "metrics" / "evaluate.json").read_text())
    assert evaluation.items() <= restored.data.metrics.items()
    name = "validation_loss"
    with (root / "reports" / "train" / "validation.csv").open() as table:
        rows = [
            (int(row["step"]), name, float(row[name])) for row in csv.DictReader(table)
        ]
    assert [row for row in mlflow_rows(root, restored) if row[1] == name] == rows


@pytest.mark.chaos  # minutes; `tests/test_pipeline.py` has the shortest of it
def test_results_that_were_pulled_from_a_remote_are_synced_and_rebuilt(
    clone: Workspace,
) -> None:
    def track(*arguments: str) -> list[str]:
        done = clone.run("python", ".", "track", *arguments)
        assert done.stderr == ""
        check_that_all_is_there(clone.root)
        return sorted(done.stdout.splitlines())

    both = ["synced: nano-python-restored", "synced: one"]
    assert track() == both
    assert track() == ["everything is synced"]
    (clone.root / "mlflow.db").unlink()
    shutil.rmtree(clone.root / "wandb")
    assert track("--rebuild") == both


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository of an empty commit."""
    for kind in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{kind}_NAME", "test")
        monkeypatch.setenv(f"GIT_{kind}_EMAIL", "test@example.com")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "first")
    return tmp_path


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("nosuch", "unknown Git revision 'nosuch'"),
        ("HEAD", "HEAD has no models/toygpt/model.safetensors"),
    ],
)
def test_a_revision_without_results_is_named(
    repository: Path, revision: str, message: str
) -> None:
    Repo.init(str(repository))

    with pytest.raises(InputError, match=message):
        track(repository, tracked_by(), revisions=[revision])


def test_results_are_of_revisions_of_experiments_and_last_of_the_workspace(
    repository: Path,
) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    for name in (f"{commit[:2]}/{commit[2:]}/plain-goat", "stash", "celery/stash"):
        git(repository, "update-ref", f"refs/exps/{name}", "HEAD")

    found = list(all_results(repository, ["HEAD"]))

    names = [(results.revision, results.name) for results in found]
    assert names == [("HEAD", "HEAD"), (commit, "plain-goat"), (None, None)]
