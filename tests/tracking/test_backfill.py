"""A run counts as synced when the tracker confirms it, for `track` and the doctor."""

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest

from tests.files import write_files
from tests.project import PROJECT
from tests.tracking.trackers import (
    POINTS,
    RESULTS,
    mlflow_client,
    mlflow_files,
    mlflow_runs,
    record_in,
    run_in,
    tracked_by,
)
from toygpt.cli import main
from toygpt.doctor.finding import Finding
from toygpt.doctor.trackers import check_trackers
from toygpt.tracking import backfill
from toygpt.tracking.points import known_of
from toygpt.tracking.record import Record, record_of_weights
from toygpt.tracking.run_info import all_infos

LOCK_WITH_EVALUATE = """
schema: '2.0'
stages:
  train:
    outs: [{path: models/toygpt, md5: 0.dir}]
  evaluate:
    deps: [{path: models/toygpt, md5: 0.dir}]
"""
NONE = tracked_by()
LACKS_RESULTS = "mlflow: not all results of the run nano-python: python . track"

pytestmark = pytest.mark.usefixtures("gives_up_soon")


@pytest.fixture
def project(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with a model whose training MLflow could not log."""
    params = (PROJECT / "params.yaml").read_text()
    for before, after in (("wandb: offline", "wandb: disabled"), (": toygpt", ": toy")):
        params = params.replace(before, after)
    model = "models/toygpt/model.safetensors"
    write_files(root, {"params.yaml": params, "dvc.yaml": "", model: "weights"})
    monkeypatch.chdir(root)
    with run_in(root, tracked_by()) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        run.remember_weights(hashlib.sha256(b"weights").hexdigest())
    record_in(root).update(trackers=["mlflow"])
    return root


@pytest.fixture
def database(project: Path, empty_database: Path) -> Any:
    """Return MLflow's client for the project's database, which has no runs yet."""
    shutil.copy(empty_database, project)
    return mlflow_client(project)


def track(*options: str) -> tuple[int, str, str]:
    """Run `python . track`, and return its exit code, output and errors."""
    output, errors = StringIO(), StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        code = main(["track", *options])
    return code, output.getvalue(), errors.getvalue()


def findings(root: Path, *, fix: bool = False) -> list[str]:
    """Return the doctor's findings, and what they suggest; those left after a fix."""
    found = [line for line in check_trackers(root) if isinstance(line, Finding)]
    if fix:
        for finding in found:
            if finding.fix is not None:
                finding.fix()
        return findings(root)
    return [f"{finding.problem}: {finding.command}" for finding in found]


def sentences(root: Path) -> list[str]:
    """Return what the doctor says of the runs where all is well."""
    return [it for it in check_trackers(root) if isinstance(it, str) and " run" in it]


def model_in_mlflow(root: Path) -> dict[str, str]:
    """Return the files that MLflow keeps of the only run: those of its model."""
    (run,) = mlflow_runs(root)
    return mlflow_files(root, run)


MODEL = {"model/model.safetensors": "weights"}
SYNCED = (0, "synced: nano-python\n", "")


def test_a_run_whose_files_mlflow_refuses_is_an_error_until_it_is_synced(
    project: Path,
) -> None:
    """There is a file in the place of MLflow's folder."""
    (project / "mlartifacts").write_text("no folder")

    code, output, errors = track()
    (found,) = findings(project)
    with pytest.raises(OSError, match=r"not synced: nano-python \(mlflow\)"):
        findings(project, fix=True)
    (project / "mlartifacts").unlink()

    assert (code, output) == (1, "")
    assert "File exists" in errors or "Not a directory" in errors
    assert errors.splitlines()[-1] == "error: not synced with mlflow: nano-python"
    assert found.endswith(": python . track")
    assert findings(project, fix=True) == [], "its model is in the workspace"
    assert model_in_mlflow(project) == MODEL
    assert sentences(project) == ["1 run, and mlflow has all of it"]


def test_a_lost_database_is_rebuilt_when_that_is_asked_for(project: Path) -> None:
    assert track() == SYNCED
    (project / "mlflow.db").unlink()

    assert track() == (0, "everything is synced\n", "")
    assert track("--rebuild") == SYNCED
    assert model_in_mlflow(project) == MODEL


def test_with_a_server_the_doctor_looks_at_no_database(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert track() == SYNCED
    (project / "mlflow.db").unlink()
    (found,) = findings(project)
    assert found == "mlflow.db is gone, and had runs: python . track --rebuild"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert findings(project) == []
    assert sentences(project)[-1].startswith("1 run of other trackers: `python . tr")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    (found,) = findings(project)
    assert found.endswith("https://mlflow.example.com: unset MLFLOW_TRACKING_URI")


def test_a_damaged_lock_file_is_an_error_in_one_line(project: Path) -> None:
    assert track() == SYNCED
    (project / "dvc.lock").write_text("<<<<<<< HEAD\nschema: '2.0'\n")

    said = "error: dvc.lock is damaged: run `git checkout dvc.lock`\n"
    assert track() == (2, "", said)
    assert findings(project) == [], "of the trackers"


def test_a_run_without_the_results_of_its_evaluation_is_a_finding_until_it_has_them(
    project: Path,
) -> None:
    """As where DVC has restored them from its run cache."""
    (project / "dvc.lock").write_text(LOCK_WITH_EVALUATE)
    assert track() == SYNCED
    assert findings(project) == []
    write_files(project, {"metrics/evaluate.json": '{"test_loss": 2.5}'})

    assert findings(project) == [LACKS_RESULTS]
    assert track() == SYNCED
    assert mlflow_runs(project)[0].data.metrics["test_loss"] == 2.5
    assert findings(project) == []


def test_a_deleted_experiment_is_an_error_with_the_command_that_restores_it(
    project: Path, database: Any
) -> None:
    location = (project / "mlartifacts" / "toy").as_uri()
    experiment_id = database.create_experiment("toy", location)
    database.delete_experiment(experiment_id)

    code, output, errors = track()
    (found,) = findings(project)

    assert (code, output) == (1, "")
    warning, error = errors.splitlines()
    command = f"mlflow experiments restore --experiment-id {experiment_id}"
    assert f"`MLFLOW_TRACKING_URI=sqlite:///mlflow.db {command}`" in warning
    assert "another tracking.project in params.yaml" in warning
    assert error == "error: not synced with mlflow: nano-python"
    assert command in found
    assert sentences(project) == [], "MLflow has nothing; no other tracker is wanted"
    database.restore_experiment(experiment_id)
    assert track() == SYNCED
    assert findings(project) == []


def test_an_experiment_of_the_server_is_a_finding_until_another_is_chosen(
    project: Path, database: Any
) -> None:
    """As the interface of `mlflow ui` creates it."""
    database.create_experiment("toy", "mlflow-artifacts:/2")

    refused, _, refusal = track()
    (found,) = findings(project)
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("project: toy", "project: mine"))

    assert refused == 1
    assert "choose another tracking.project" in refusal
    assert "created by MLflow's server" in found
    assert found.endswith(": ${EDITOR:-vi} params.yaml")
    assert track()[::2] == (0, "")
    assert findings(project) == []


def test_the_doctor_corrects_locations_and_copies_files(
    project: Path, tmp_path: Path
) -> None:
    track()
    moved = project.rename(tmp_path / "moved")
    project.mkdir()
    (moved / "mlartifacts").rename(project / "mlartifacts")

    (found,) = findings(moved)

    assert f"mlflow.db points to {project / 'mlartifacts'}" in found
    assert "The files of 1 run are there alone" in found
    assert "python . doctor --fix" in found
    assert findings(moved, fix=True) == []
    assert model_in_mlflow(moved) == MODEL


def test_a_model_that_was_trained_elsewhere_gets_a_run_of_its_results(
    project: Path,
) -> None:
    """As DVC restores them. The evaluation may be of another model: nothing says it."""
    shutil.rmtree(project / ".toygpt" / "runs")
    evaluation = {"metrics/evaluate.json": '{"test_loss": 2.5}', "dvc.lock": "{}"}
    write_files(project, RESULTS | evaluation)

    first, again = track(), track()

    (run,) = mlflow_runs(project)
    assert first == (0, f"synced: {run.info.run_name}\n", "")
    assert again == (0, "everything is synced\n", "")
    assert run.info.run_name.endswith("-restored")
    assert run.info.status == "FINISHED"
    (record,) = (Record(folder) for folder, _ in all_infos(project))
    assert known_of(record.points) == POINTS
    batch_size = record.info.params["train.batch_size"]
    assert run.data.params["train.batch_size"] == str(batch_size)
    assert run.data.tags["toygpt.restored.from"] == "the workspace"
    assert model_in_mlflow(project) == MODEL


def test_two_commands_at_once_make_one_record(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(project / ".toygpt" / "runs")
    write_files(project, RESULTS)
    both_look = Barrier(2)
    find = record_of_weights

    def find_together(*arguments: Any) -> Record | None:
        found = find(*arguments)
        with suppress(BrokenBarrierError):  # the other one waits for the lock
            both_look.wait(0.5)
        return found

    monkeypatch.setattr(backfill, "record_of_weights", find_together)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(backfill.track, project, NONE) for _ in range(2)]:
            done.result()

    assert len(list(all_infos(project))) == 1


def test_a_damaged_record_is_a_warning_and_the_others_are_synced(
    project: Path,
) -> None:
    with run_in(project, tracked_by(), run_id="other", name="other") as run:
        run.log_metrics({"loss": 1.0}, step=1)
    record_in(project, "other").update(trackers=["mlflow"])
    (record_in(project).folder / "metrics.jsonl").write_text("no point\n" * 2)

    code, output, errors = track()

    assert (code, output) == (0, "synced: other\n")
    assert errors.startswith("warning: the results of the workspace are left as they ")
    assert "metrics.jsonl is damaged" in errors


@pytest.mark.parametrize("report", ["step\n1,", "no table\n1", None])
def test_results_that_cannot_be_read_are_an_error_or_there_are_none(
    project: Path, report: str | None
) -> None:
    shutil.rmtree(project / ".toygpt" / "runs")
    if report is not None:
        write_files(project, {"reports/train/train.csv": report})

    code, _, errors = track()

    expected = (0, "") if report is None else (2, "error: the results of the workspace")
    assert (code, errors[: len(expected[1])]) == expected
