"""What the trackers lost, or never had, they are told from what DVC has."""

import csv
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.project import Workspace, tiny_project
from tests.tracking.trackers import mlflow_client, mlflow_runs, wandb_runs
from toygpt.tracking.record import Record, all_infos

# Three minutes; `tests/test_pipeline.py` has the shortest of it.
pytestmark = pytest.mark.chaos

OF_THE_TRACKERS = (".toygpt", "mlflow.db", "mlartifacts", "wandb")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a project with a commit, and an experiment that is another model.

    What DVC has of them is in its remote, too, and the commits in another repository.
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
    # Nothing of this was told to any tracker; from now on it is.
    project.set_params({"tracking.mlflow": True, "tracking.wandb": "offline"})
    return project


@pytest.fixture
def project(trained: Workspace) -> Workspace:
    """Return that project, of which the trackers know nothing."""
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
    """Compare what the trackers have with what the pipeline left."""
    runs = {run.info.run_name: run for run in mlflow_runs(root, "toygpt")}
    assert sorted(runs) == ["nano-python-restored", "one"]
    rates = {name: run.data.params["train.learning_rate"] for name, run in runs.items()}
    assert {name: float(rate) for name, rate in rates.items()} == {
        "nano-python-restored": 2e-3,
        "one": 3e-3,
    }
    records = {info.name: Record(path) for path, info in all_infos(root)}
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        assert run.data.metrics.keys() >= {"parameters", "steps", "test_loss"}
        check_curves(root, run, records[name])
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        assert (folder / "model" / "model.safetensors").is_file()
        assert (folder / "samples" / "samples.md").is_file()
    restored = runs["nano-python-restored"]
    for file in ("train.json", "evaluate.json"):
        for key, value in json.loads((root / "metrics" / file).read_text()).items():
            if key in restored.data.metrics and key not in {"train_loss"}:
                assert restored.data.metrics[key] == pytest.approx(value, rel=1e-6)
    with (root / "reports" / "train" / "validation.csv").open() as table:
        rows = [
            (int(row["step"]), float(row["validation_loss"]))
            for row in csv.DictReader(table)
        ]
    points = mlflow_client(root).get_metric_history(
        restored.info.run_id, "validation_loss"
    )
    assert sorted((point.step, point.value) for point in points) == rows


def check_curves(root: Path, run: Any, record: Record) -> None:
    """See each point of the curves once, in both trackers."""
    expected = sorted(
        (point.step, name, value)
        for point in record.points
        if point.step is not None
        for name, value in point.metrics.items()
    )
    assert len(expected) > 10
    client = mlflow_client(root)
    in_mlflow = sorted(
        (point.step, name, point.value)
        for name in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, name)
        if point.step
    )
    (told,) = [run for run in wandb_runs(root) if run.run_id == record.info.id]
    in_wandb = sorted(
        (row["step"], name, value)
        for row in told.history
        for name, value in row.items()
        if name != "step"
    )
    assert in_mlflow == in_wandb == expected
    assert told.exit_code == 0
    assert told.summary["test_loss"] == run.data.metrics["test_loss"]
    assert told.artifacts.keys() >= {f"model-{record.info.id}"}


def test_what_was_trained_is_told_once_however_often_it_is_asked_for(
    project: Workspace,
) -> None:
    first = track(project)
    second = track(project)
    check_that_all_is_there(project.root)
    (project.root / "mlflow.db").unlink()
    shutil.rmtree(project.root / "wandb")
    rebuilt = track(project, "--rebuild")

    assert sorted(first.stdout.splitlines()) == [
        "synced: nano-python-restored",
        "synced: one",
    ]
    assert second.stdout == "everything is synced\n"
    assert sorted(rebuilt.stdout.splitlines()) == sorted(first.stdout.splitlines())
    assert (first.stderr, second.stderr, rebuilt.stderr) == ("", "", "")
    check_that_all_is_there(project.root)


def test_what_was_pulled_from_a_remote_is_told(
    project: Workspace, tmp_path: Path
) -> None:
    origin = project.root.parent / "origin.git"
    project.run("git", "clone", "--quiet", str(origin), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    clone.environment["DVC_SITE_CACHE_DIR"] = str(tmp_path / "dvc-site-cache")
    clone.dvc("pull")
    clone.dvc("exp", "pull", "origin", "one")
    clone.set_params({"tracking.mlflow": True, "tracking.wandb": "offline"})

    told = track(clone)

    assert sorted(told.stdout.splitlines()) == [
        "synced: nano-python-restored",
        "synced: one",
    ]
    check_that_all_is_there(clone.root)


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
