"""`python . track` says that a run is synced when the trackers have confirmed it."""

import hashlib
from pathlib import Path

import pytest

from tests.project import PROJECT
from tests.tracking.trackers import (
    give_database,
    mlflow_client,
    mlflow_runs,
    record_in,
    run_in,
    tracked_by,
)
from toygpt.cli import main
from toygpt.doctor.finding import Finding
from toygpt.doctor.trackers import check_trackers
from toygpt.tracking import sync_worker

TRACKING = tracked_by("mlflow", project="toygpt")


@pytest.fixture
def root(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Return a project with a model whose training MLflow could not log."""
    root = give_database(tmp_path / "project", tmp_path_factory)
    params = (PROJECT / "params.yaml").read_text()
    (root / "params.yaml").write_text(
        params.replace("wandb: offline", "wandb: disabled")
    )
    (root / "dvc.yaml").touch()
    (root / "dvc.lock").write_text("{}")
    model = root / "models" / "toygpt"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_text("weights")
    monkeypatch.chdir(root)
    monkeypatch.setattr(sync_worker, "FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(sync_worker, "PATIENCE_WITH_FAILURE_SECONDS", 0.3)
    with run_in(root, tracked_by(project="toygpt")) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        run.remember_weights(hashlib.sha256(b"weights").hexdigest())
    record_in(root).update(trackers=["mlflow"])
    return root


def lines_on_runs(root: Path) -> list[str]:
    """Return what the doctor says of the runs where they are all synced."""
    lines = [line for line in check_trackers(root) if isinstance(line, str)]
    return [line for line in lines if " run" in line]


def findings(root: Path, *, fix: bool = False) -> list[str]:
    """Return what the doctor finds at the trackers, after it fixed what it can."""
    found = [line for line in check_trackers(root) if isinstance(line, Finding)]
    if fix:
        for finding in found:
            if finding.mend is not None:
                finding.mend()
        return findings(root)
    return [f"{finding.problem}: {finding.remedy}" for finding in found]


def test_what_mlflow_refuses_is_an_error_until_it_is_synced(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the files of runs belong there is a file."""
    (root / "mlartifacts").write_text("no folder")

    refused = main(["track"])
    said = capsys.readouterr()
    found = findings(root)
    after_fix = findings(root, fix=True)  # the curves can be synced, the files cannot
    (root / "mlartifacts").unlink()
    accepted = main(["track"])
    then = capsys.readouterr()

    assert (refused, said.out) == (1, "")
    assert "File exists" in said.err or "Not a directory" in said.err
    assert said.err.splitlines()[-1] == "error: not synced with mlflow: nano-python"
    assert "python . track" in found[0]
    assert after_fix == [
        "mlflow: not all results of the run nano-python: python . track"
    ]
    assert (accepted, then.out, then.err) == (0, "synced: nano-python\n", "")
    assert findings(root) == []
    (run,) = mlflow_runs(root, "toygpt")
    folder = root / "mlartifacts" / "toygpt" / run.info.run_id / "artifacts"
    assert (folder / "model" / "model.safetensors").read_text() == "weights"


def test_a_damaged_lock_file_is_an_error_in_one_line(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["track"]) == 0
    capsys.readouterr()
    (root / "dvc.lock").write_text("<<<<<<< HEAD\nschema: '2.0'\n")

    refused = main(["track"])

    said = "error: dvc.lock is damaged: run `git checkout dvc.lock`\n"
    assert (refused, *capsys.readouterr()) == (2, "", said)
    assert findings(root) == []  # of the trackers


LOCK_WITH_EVALUATE = """
schema: '2.0'
stages:
  train:
    outs: [{path: models/toygpt, md5: 0.dir}]
  evaluate:
    deps: [{path: models/toygpt, md5: 0.dir}]
"""


@pytest.mark.parametrize("lock", [LOCK_WITH_EVALUATE, None])
def test_without_the_results_of_the_evaluation_the_model_is_synced(
    root: Path, capsys: pytest.CaptureFixture[str], lock: str | None
) -> None:
    """Where metrics/evaluate.json was deleted, or dvc.lock."""
    (root / "dvc.lock").write_text(lock) if lock else (root / "dvc.lock").unlink()

    assert main(["track"]) == 0

    assert capsys.readouterr().out == "synced: nano-python\n"
    (run,) = mlflow_runs(root, "toygpt")
    folder = root / "mlartifacts" / "toygpt" / run.info.run_id / "artifacts"
    assert (folder / "model" / "model.safetensors").read_text() == "weights"


def test_the_doctor_names_a_run_without_the_results_of_its_evaluation(
    root: Path,
) -> None:
    """As where DVC has restored them from its run cache."""
    (root / "dvc.lock").write_text(LOCK_WITH_EVALUATE)
    assert main(["track"]) == 0
    assert findings(root) == []
    (root / "metrics").mkdir()
    (root / "metrics" / "evaluate.json").write_text('{"test_loss": 2.5}')

    found = findings(root)
    assert main(["track"]) == 0

    assert found == ["mlflow: not all results of the run nano-python: python . track"]
    assert mlflow_runs(root, "toygpt")[0].data.metrics["test_loss"] == 2.5
    assert findings(root) == []


def test_a_deleted_experiment_is_an_error_with_the_command_that_helps(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = mlflow_client(root)
    experiment_id = client.create_experiment(
        "toygpt", (root / "mlartifacts" / "toygpt").as_uri()
    )
    client.delete_experiment(experiment_id)

    refused = main(["track"])
    said = capsys.readouterr()
    (found,) = findings(root)
    while_deleted = lines_on_runs(root)
    client.restore_experiment(experiment_id)
    accepted = main(["track"])

    assert (refused, said.out) == (1, "")
    assert "mlflow experiments restore" in said.err
    assert said.err.splitlines()[-1] == "error: not synced with mlflow: nano-python"
    assert f"mlflow experiments restore --experiment-id {experiment_id}" in found
    assert accepted == 0
    assert capsys.readouterr().out == "synced: nano-python\n"
    assert findings(root) == []
    assert while_deleted == [], "MLflow has nothing, and no other tracker is wanted"
    assert lines_on_runs(root) == ["1 run, and mlflow has all of it"]


def test_an_experiment_of_the_server_is_a_finding_until_another_is_chosen(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the interface of `mlflow ui` creates it."""
    mlflow_client(root).create_experiment("toygpt", "mlflow-artifacts:/2")

    refused = main(["track"])
    (found,) = findings(root)
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("project: toygpt", "project: mine"))
    capsys.readouterr()
    accepted = main(["track"])

    assert refused == 1
    assert "created by MLflow's server" in found
    assert found.endswith(": ${EDITOR:-vi} params.yaml")
    assert (accepted, capsys.readouterr().err) == (0, "")
    assert findings(root) == []


def test_the_doctor_corrects_locations_and_brings_files(
    root: Path, tmp_path: Path
) -> None:
    assert main(["track"]) == 0
    (run,) = mlflow_runs(root, "toygpt")
    moved = root.rename(tmp_path / "moved")
    (moved / "mlartifacts").rename(tmp_path / "mlartifacts")
    root.mkdir()
    (tmp_path / "mlartifacts").rename(root / "mlartifacts")

    (found,) = findings(moved)
    fixed = findings(moved, fix=True)

    assert f"mlflow.db points to {root / 'mlartifacts'}" in found
    assert "The files of 1 run are there alone" in found
    assert "python . doctor --fix" in found
    assert fixed == []
    folder = moved / "mlartifacts" / "toygpt" / run.info.run_id / "artifacts"
    assert (folder / "model" / "model.safetensors").read_text() == "weights"
