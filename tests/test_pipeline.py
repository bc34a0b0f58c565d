"""The whole pipeline, with real DVC, MLflow and W&B, in a project of its own."""

import json
import re
from pathlib import Path

import pytest

from tests.conftest import Toygpt
from tests.isolation import can_isolate, outside_addresses
from tests.project import (
    UNTRACKED,
    Workspace,
    mlflow_runs,
    temporary_of,
    trace_of,
)
from toygpt.resuming.run_folder import list_run_folders
from toygpt.tracking.run_info import all_infos
from toygpt.tracking.wandb.files import read_runs

pytestmark = pytest.mark.slow

STAGES = ["download", "tokenize", "split", "train", "evaluate", "generate-samples"]


def test_the_pipeline_needs_no_network_and_asks_for_none(built: Workspace) -> None:
    if not can_isolate():
        pytest.skip("this machine makes no network namespaces")
    if not trace_of(built).exists():
        pytest.skip("the pipeline passed, but without strace its tries are unknown")

    assert "connect(" in trace_of(built).read_text()  # W&B's process, on this machine
    assert outside_addresses(trace_of(built)) == []


def test_nothing_stays_in_the_temporary_folder(built: Workspace) -> None:
    assert list(temporary_of(built).iterdir()) == []
    assert list((built.root / ".toygpt" / "wandb" / "tmp").iterdir()) == []


def test_a_second_repro_runs_nothing(project: Workspace) -> None:
    output = project.dvc("repro").stdout

    assert "Running stage" not in output
    assert project.dvc("status").stdout.strip() == "Data and pipelines are up to date."


def test_the_trackers_have_one_run_with_everything(built: Workspace) -> None:
    oldest = mlflow_runs(built)[-1]

    commit = oldest.data.tags["mlflow.source.git.commit"]
    assert oldest.info.run_name == f"nano-python-{commit[:7]}"
    assert oldest.info.status == "FINISHED"
    assert oldest.data.params["models.nano.embed_dim"] == "8"
    assert "models.small.embed_dim" not in oldest.data.params
    assert "hub.wikisource.text" not in oldest.data.params
    assert oldest.data.tags["toygpt.git.dirty"] == "false"
    assert oldest.data.metrics.keys() >= {
        *("train_loss", "validation_loss", "gradient_norm"),
        *("muon_learning_rate", "tokens_per_second", "test_bits_per_byte"),
    }
    assert "bits per byte on the test split" in oldest.data.tags["mlflow.note.content"]
    assert len(oldest.inputs.dataset_inputs) == 3
    (output,) = oldest.outputs.model_outputs
    artifacts = built.root / "mlartifacts" / "toygpt"
    model = artifacts / "models" / output.model_id / "artifacts"
    assert (model / "model.safetensors").is_file()
    of_run = artifacts / oldest.info.run_id / "artifacts"
    assert (of_run / "samples/samples.md").is_file()
    assert (of_run / "evaluation/report.html").is_file()

    (run, *_) = [run for run in read_runs(built.root) if run.history]
    assert run.name == oldest.info.run_name
    assert run.config["models.nano.embed_dim"] == 8
    assert run.config["git.commit"] == commit
    assert [row["step"] for row in run.history if "validation_loss" in row] == [2, 4, 6]


def test_a_fresh_clone_comes_to_the_same_results(
    built: Workspace, tmp_path: Path
) -> None:
    """The same weights, samples and metrics as dvc.lock has, to the last bit.

    Each stage runs there, `evaluate` too, whose metrics Git has: where it does not run,
    no tracker gets them.
    """
    clone = Workspace(tmp_path / "project")
    built.run("git", "clone", "--quiet", ".", str(clone.root))
    clone.set_params(UNTRACKED)
    clone.commit("untracked")

    output = clone.dvc("repro").stdout

    assert re.findall(r"Running stage '(.+)'", output) == STAGES
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_an_evaluation_from_the_run_cache_is_synced_by_track(
    project: Workspace, toygpt: Toygpt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a second training of the same model `evaluate` does not run."""
    assert trackers_with_test_metrics(project) == [True]

    project.dvc("repro", "--force", "--single-item", "train")
    again = project.dvc("repro").stdout

    assert "Stage 'evaluate' is cached" in again
    assert project.run("git", "status", "--porcelain").stdout == ""
    assert trackers_with_test_metrics(project) == [True, False]
    project.enter(monkeypatch)
    page = toygpt("doctor").out
    assert "mlflow and wandb: not all results of the run nano-python" in page
    assert toygpt("track").code == 0
    assert trackers_with_test_metrics(project) == [True, True]


def trackers_with_test_metrics(workspace: Workspace) -> list[bool]:
    """Return for each run, oldest first, whether both trackers have its evaluation."""
    name = "test_bits_per_byte"
    in_wandb = {run.run_id for run in read_runs(workspace.root) if name in run.summary}
    found = []
    for run in reversed(mlflow_runs(workspace)):
        found.append(name in run.data.metrics)
        assert (run.data.tags["toygpt.run"] in in_wandb) == found[-1]
    return found


def test_two_devices_learn_what_one_does_and_log_one_run(
    built: Workspace, tmp_path: Path
) -> None:
    """Six steps, validated after four: the last validation comes after training."""
    copy = built.copy_to(tmp_path / "project")
    changes = {"train.validate_every_tokens": 256, "runtime.devices": 2}
    copy.set_params(changes | {"tracking.mlflow": False})  # W&B takes less time

    done = copy.run("python", "-m", "stages.train")

    assert "Error" not in done.stderr
    one, two = (
        json.loads((workspace.root / "metrics/train.json").read_text())
        for workspace in (built, copy)
    )
    assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-3)
    assert list_run_folders(copy.root) == []
    before, after = (
        (
            {info.id for _, info in all_infos(workspace.root)},
            sorted(run.run_id for run in read_runs(workspace.root) if run.history),
        )
        for workspace in (built, copy)
    )
    (new,) = after[0] - before[0]
    assert after[1] == sorted([*before[1], new])


def test_a_bad_parameter_stops_the_first_stage(project: Workspace) -> None:
    lock = (project.root / "dvc.lock").read_bytes()

    project.set_params({"train.learning_rate": -1.0, "download.max_documents": 30})
    failed = project.dvc("repro", check=False)

    assert failed.returncode != 0
    assert "train.learning_rate: got -1.0" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (project.root / "dvc.lock").read_bytes() == lock
