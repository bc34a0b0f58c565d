"""Models that were trained elsewhere get runs, from the pipeline's results."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.project import Workspace, tiny_project
from tests.tracking.trackers import mlflow_rows, mlflow_runs, rows_of, wandb_rows
from toygpt.pipeline.git import git
from toygpt.tracking.record import Record, all_infos
from toygpt.tracking.results import all_results
from toygpt.tracking.wandb_files import read_runs

# Three minutes; `tests/test_pipeline.py` has the shortest of it.
chaos = pytest.mark.chaos

OF_THE_TRACKERS = (".toygpt", "mlflow.db", "mlartifacts", "wandb")
BOTH_SYNCED = ["synced: nano-python-restored", "synced: one"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a project with a commit, and an experiment that is another model.

    DVC's remote and another repository have copies of them.
    """
    folder = tmp_path_factory.mktemp("track")
    (folder / "project").mkdir()
    project = tiny_project(folder / "project")
    project.dvc("remote", "add", "--default", "store", str(folder / "store"))
    project.set_params({"tracking.mlflow": False, "tracking.wandb": "disabled"})
    project.commit("a remote")
    project.dvc("repro")
    project.commit("trained")
    project.dvc(
        "exp", "run", "--name", "one", "--set-param", "train.learning_rate=3e-3"
    )
    project.run("git", "checkout", "--force", "--quiet", ".")
    project.dvc("checkout", "--force")
    project.dvc("push")
    origin = str(folder / "origin.git")
    project.run("git", "init", "--quiet", "--bare", "--initial-branch", "main", origin)
    project.run("git", "remote", "add", "origin", origin)
    project.run("git", "push", "--quiet", "origin", "main")
    project.dvc("exp", "push", "origin", "one")
    # No tracker has any of this; from now on they are wanted.
    project.set_params({"tracking.mlflow": True, "tracking.wandb": "offline"})
    return project


@pytest.fixture
def project(trained: Workspace) -> Workspace:
    """Return that project, of which the trackers have nothing."""
    for name in OF_THE_TRACKERS:
        path = trained.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return trained


def track(
    project: Workspace, *arguments: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run `python . track`."""
    return project.run("python", ".", "track", *arguments, check=check)


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


@chaos
def test_results_are_synced_once_however_often_it_is_asked_for(
    project: Workspace,
) -> None:
    first, second = track(project), track(project)
    check_that_all_is_there(project.root)
    (project.root / "mlflow.db").unlink()
    shutil.rmtree(project.root / "wandb")
    rebuilt = track(project, "--rebuild")

    assert sorted(first.stdout.splitlines()) == BOTH_SYNCED
    assert second.stdout == "everything is synced\n"
    assert sorted(rebuilt.stdout.splitlines()) == BOTH_SYNCED
    assert (first.stderr, second.stderr, rebuilt.stderr) == ("", "", "")
    check_that_all_is_there(project.root)


@chaos
def test_results_that_were_pulled_from_a_remote_are_synced(
    project: Workspace, tmp_path: Path
) -> None:
    origin = project.root.parent / "origin.git"
    project.run("git", "clone", "--quiet", str(origin), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    clone.environment["DVC_SITE_CACHE_DIR"] = str(tmp_path / "dvc-site-cache")
    clone.dvc("pull")
    clone.dvc("exp", "pull", "origin", "one")
    clone.set_params({"tracking.mlflow": True, "tracking.wandb": "offline"})

    synced = track(clone)

    assert sorted(synced.stdout.splitlines()) == BOTH_SYNCED
    check_that_all_is_there(clone.root)


@chaos
@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("nosuch", "error: unknown Git revision 'nosuch'"),
        ("HEAD~1", "error: HEAD~1 has no models/toygpt/model.safetensors"),
    ],
)
def test_a_revision_without_results_is_named(
    project: Workspace, revision: str, message: str
) -> None:
    answer = track(project, revision, check=False)

    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.splitlines() == [message]
    assert not (project.root / "mlflow.db").exists()


def test_results_are_of_revisions_of_experiments_and_last_of_the_workspace(
    tmp_path: Path,
) -> None:
    git(tmp_path, "init", "--quiet")
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    git(tmp_path, *identity, "commit", "--quiet", "--allow-empty", "--message", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    for name in (f"{commit[:2]}/{commit[2:]}/plain-goat", "stash", "celery/stash"):
        git(tmp_path, "update-ref", f"refs/exps/{name}", "HEAD")

    found = list(all_results(tmp_path, ["HEAD"]))

    names = [(results.revision, results.name) for results in found]
    assert names == [("HEAD", "HEAD"), (commit, "plain-goat"), (None, None)]
