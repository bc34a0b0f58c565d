"""The whole pipeline, with real DVC, MLflow and W&B, in a project of its own."""

import csv
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.kills import wait_until
from tests.isolation import can_isolate, outside_addresses
from tests.project import (
    PLANTED,
    PROJECT,
    SECRETS,
    UNTRACKED,
    Workspace,
    mlflow_runs,
    temporary_of,
    tiny_project,
    trace_of,
)
from toygpt.cli import main
from toygpt.tracking.run_info import all_infos
from toygpt.tracking.wandb_files import read_runs

pytestmark = pytest.mark.slow

# Runs `python . ARGUMENTS` in a project; returns its exit code and what it printed.
Command = Callable[..., tuple[int, str]]
STAGES = ["download", "tokenize", "split", "train", "evaluate", "generate-samples"]


@pytest.fixture(scope="module")
def work(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a copy of the built project, with the secrets, to work in."""
    copy = built.copy_to(tmp_path_factory.mktemp("work") / "project")
    copy.environment |= SECRETS
    return copy


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return a function that runs `python . ARGUMENTS` in this process."""

    def run(workspace: Workspace, *arguments: str) -> tuple[int, str]:
        workspace.enter(monkeypatch)
        capsys.readouterr()
        code = main(arguments, program="python .")
        return code, capsys.readouterr().out

    return run


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


def test_a_second_repro_runs_nothing(work: Workspace) -> None:
    output = work.dvc("repro").stdout

    assert "Running stage" not in output
    assert work.dvc("status").stdout.strip() == "Data and pipelines are up to date."


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


def numbers_shown(workspace: Workspace, metric: str) -> dict[str, str]:
    """Return what `dvc exp show` has of a metric, by experiment, branch or workspace.

    A missing value is an empty string.
    """
    table = csv.DictReader(workspace.dvc("exp", "show", "--csv").stdout.splitlines())
    return {row["Experiment"] or row["rev"]: row[metric] for row in table}


IN_WORKSPACE, IN_TEMPORARY = "in-the-workspace", "in-a-temporary-folder"


@pytest.fixture(scope="module")
def with_experiments(work: Workspace) -> Workspace:
    """Return the project after two experiments that were trained and not evaluated.

    Neither shows a number of the model before it.
    """
    train = ("exp", "run", "train", "-n")
    work.dvc(*train, IN_TEMPORARY, "--temp", "-S", "train.optimizer=adamw")
    work.dvc(*train, IN_WORKSPACE, "-S", "train.learning_rate=4e-3")

    shown = numbers_shown(work, "test_bits_per_byte")
    assert float(shown.pop("main")) > 0
    assert shown == {"workspace": "", IN_WORKSPACE: "", IN_TEMPORARY: ""}
    assert all(map(float, numbers_shown(work, "validation_loss").values()))
    assert not (work.root / "reports/samples").exists()
    assert not (work.root / "reports/evaluate").exists()
    work.run("git", "checkout", "--quiet", "--", ".")
    work.dvc("checkout")
    return work


def test_every_experiment_is_one_run_of_its_name_in_the_main_project(
    with_experiments: Workspace,
) -> None:
    runs = {run.info.run_name: run for run in mlflow_runs(with_experiments)}
    assert len(runs) == len(mlflow_runs(with_experiments)) == 3
    for name, key, value in (
        (IN_WORKSPACE, "train.learning_rate", "0.004"),
        (IN_TEMPORARY, "train.optimizer", "adamw"),
    ):
        assert runs[name].info.status == "FINISHED"
        assert runs[name].data.params[key] == value
        assert runs[name].data.tags["toygpt.dvc.experiment"] == name
        assert runs[name].data.tags["toygpt.dvc.baseline"]
        assert "test_bits_per_byte" not in runs[name].data.metrics
    in_wandb = {(run.run_id, run.name) for run in read_runs(with_experiments.root)}
    assert sorted(name for _, name in in_wandb) == sorted(runs)


def test_a_fresh_clone_comes_to_the_same_results(
    built: Workspace, tmp_path: Path, command: Command
) -> None:
    """The same weights as dvc.lock has, to the last bit.

    Though Git has the test metrics, and dvc.lock fits, the trackers have to get them.
    After the second training they come from DVC's run cache: then `evaluate` does not
    run, and `python . track` syncs them.
    """
    clone = Workspace(tmp_path / "project")
    built.run("git", "clone", "--quiet", ".", str(clone.root))

    first = clone.dvc("repro").stdout
    assert re.findall(r"Running stage '(.+)'", first) == STAGES
    assert clone.run("git", "status", "--porcelain").stdout == ""
    assert trackers_with_test_metrics(clone) == [True]

    clone.dvc("repro", "--force", "--single-item", "train")
    again = clone.dvc("repro").stdout
    assert "Stage 'evaluate' is cached" in again
    assert clone.run("git", "status", "--porcelain").stdout == ""
    assert trackers_with_test_metrics(clone) == [True, False]
    _, page = command(clone, "doctor")
    assert "mlflow and wandb: not all results of the run nano-python" in page
    assert command(clone, "track")[0] == 0
    assert trackers_with_test_metrics(clone) == [True, True]


def trackers_with_test_metrics(workspace: Workspace) -> list[bool]:
    """Return for each run, oldest first, whether both trackers have its evaluation."""
    name = "test_bits_per_byte"
    in_wandb = {run.run_id for run in read_runs(workspace.root) if name in run.summary}
    found = []
    for run in reversed(mlflow_runs(workspace)):
        found.append(name in run.data.metrics)
        assert (run.data.tags["toygpt.run"] in in_wandb) == found[-1]
    return found


def test_the_doctor_names_the_numbers_of_another_model(
    with_experiments: Workspace, tmp_path: Path, command: Command
) -> None:
    """Where DVC restores a model from its run cache none of our code runs."""
    copy = with_experiments.copy_to(tmp_path / "project")
    copy.set_params(UNTRACKED)
    restored = copy.dvc("exp", "run", "train", "-S", "train.learning_rate=4e-3").stdout
    assert "Stage 'train' is cached" in restored

    code, page = command(copy, "doctor")
    assert code == 1
    commands = re.findall(r"^ {8}(dvc repro .*)", page, re.MULTILINE)
    assert commands == [
        "dvc repro --single-item evaluate",
        "dvc repro --single-item generate-samples",
    ]
    assert "metrics/evaluate.json and reports/evaluate: not measured on" in page
    copy.dvc("repro", "--single-item", "evaluate", "generate-samples")

    code, page = command(copy, "doctor")
    assert (code, page.splitlines()[-1]) == (0, "All is well.")


def test_the_readme_s_table_of_experiments_fits_a_screen(
    with_experiments: Workspace,
) -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^dvc exp show .*", text, re.MULTILINE)

    table = with_experiments.run(*shlex.split(command)).stdout

    assert f"[{IN_TEMPORARY}]" in table
    for column in ("validation_loss", "test_bits_per_byte", "train.learning_rate"):
        assert column in table
    assert max(map(len, table.splitlines())) <= 100


def test_two_devices_learn_what_one_does_and_log_one_run(
    built: Workspace, tmp_path: Path
) -> None:
    """Six steps, validated after four: the last validation comes after training."""
    copy = built.copy_to(tmp_path / "project")
    changes = {"train.validate_every_tokens": 256, "runtime.devices": 2}
    copy.set_params(UNTRACKED | changes)

    done = copy.run("python", "-m", "stages.train")

    assert "Error" not in done.stderr
    one, two = (
        json.loads((workspace.root / "metrics/train.json").read_text())
        for workspace in (built, copy)
    )
    assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-3)
    records = [len(list(all_infos(workspace.root))) for workspace in (built, copy)]
    assert records[1] == records[0] + 1


def test_a_remote_brings_everything_back(project: Workspace, tmp_path: Path) -> None:
    remote = str(tmp_path / "remote")
    project.dvc("remote", "add", "--default", "--local", "storage", remote)
    project.dvc("push")
    project.run("rm", "-r", "data", "models", "reports", ".dvc/cache")

    project.dvc("pull")

    assert "up to date" in project.dvc("status").stdout


def test_a_bad_parameter_stops_the_first_stage(project: Workspace) -> None:
    lock = (project.root / "dvc.lock").read_bytes()

    project.set_params({"train.learning_rate": -1.0, "download.max_documents": 30})
    failed = project.dvc("repro", check=False)

    assert failed.returncode != 0
    assert "train.learning_rate: got -1.0" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (project.root / "dvc.lock").read_bytes() == lock


def test_no_file_holds_a_secret(with_experiments: Workspace) -> None:
    """Also of those that Git, DVC and the trackers write."""
    planted = [secret.encode() for secret in PLANTED]
    where_they_are_planted = {Path(".git/config"), Path("tests/project.py")}
    files = [path for path in with_experiments.root.rglob("*") if path.is_file()]
    assert len(files) > 200
    for path in files:
        if path.relative_to(with_experiments.root) not in where_they_are_planted:
            contents = path.read_bytes()
            assert not [secret for secret in planted if secret in contents], path


@pytest.mark.chaos  # it takes two minutes
def test_two_queued_experiments_make_the_database_at_once(tmp_path: Path) -> None:
    """Each has documents of its own, since DVC's run cache may fail two writers.

    DVC lists the cache of a stage while another process writes to it, takes the
    unfinished file for a damaged one, and deletes it (`StageCache._load`).
    """
    fresh = tiny_project(tmp_path / "project")
    for number in ("40", "41"):
        override = f"download.max_documents={number}"
        fresh.dvc("exp", "run", "--queue", "-n", f"first-{number}", "-S", override)

    def is_done() -> bool:
        table = fresh.dvc("queue", "status").stdout
        assert "Failed" not in table, table
        return table.count("Success") == 2

    try:
        fresh.dvc("queue", "start", "--jobs", "2")
        wait_until(is_done)
    finally:
        fresh.dvc("queue", "stop", "--kill", check=False)

    runs = mlflow_runs(fresh)
    assert sorted(run.info.run_name for run in runs) == ["first-40", "first-41"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    in_wandb = {(run.name, run.run_id) for run in read_runs(fresh.root)}
    assert sorted(name for name, _ in in_wandb) == ["first-40", "first-41"]
