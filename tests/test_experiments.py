"""`dvc exp run` in the workspace and beside it, with real MLflow and W&B."""

import csv
import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import Toygpt
from tests.faults.kills import wait_until
from tests.project import (
    PLANTED,
    PROJECT,
    SECRETS,
    UNTRACKED,
    Workspace,
    mlflow_runs,
    tiny_project,
)
from toygpt.tracking.wandb.files import read_runs

pytestmark = pytest.mark.slow


def numbers_shown(workspace: Workspace, metric: str) -> dict[str, str]:
    """Return what `dvc exp show` has of a metric, by experiment, branch or workspace.

    A missing value is an empty string.
    """
    table = csv.DictReader(workspace.dvc("exp", "show", "--csv").stdout.splitlines())
    return {row["Experiment"] or row["rev"]: row[metric] for row in table}


IN_WORKSPACE, IN_TEMPORARY = "in-the-workspace", "in-a-temporary-folder"


@pytest.fixture(scope="module")
def with_experiments(
    built: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """Return the project after two experiments that were trained and not evaluated.

    Neither shows a number of the model before it. The secrets are still planted.
    """
    work = built.copy_to(tmp_path_factory.mktemp("work") / "project")
    work.environment |= SECRETS
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


def test_the_doctor_names_the_numbers_of_another_model(
    with_experiments: Workspace,
    tmp_path: Path,
    toygpt: Toygpt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where DVC restores a model from its run cache none of our code runs.

    The stages that are run again log to the run that trained the model.
    """
    copy = with_experiments.copy_to(tmp_path / "project")
    copy.set_params(UNTRACKED)
    restored = copy.dvc("exp", "run", "train", "-S", "train.learning_rate=4e-3").stdout
    assert "Stage 'train' is cached" in restored

    # Of the copied mlflow.db it fixes the folder; the numbers are left to the user.
    copy.enter(monkeypatch)
    code, page, _ = toygpt("doctor", "--fix")
    assert code == 1
    commands = re.findall(r"^ {8}(dvc repro .*)", page, re.MULTILINE)
    assert commands == [
        "dvc repro --single-item evaluate",
        "dvc repro --single-item generate-samples",
    ]
    assert "metrics/evaluate.json and reports/evaluate: not measured on" in page
    copy.set_params({"tracking.wandb": "offline"})
    copy.dvc("repro", "--single-item", "evaluate", "generate-samples")

    code, page, _ = toygpt("doctor")
    assert (code, page.splitlines()[-1]) == (0, "All is well.")
    named = [run for run in read_runs(copy.root) if run.name == IN_WORKSPACE]
    assert any("test_bits_per_byte" in run.summary for run in named)


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
