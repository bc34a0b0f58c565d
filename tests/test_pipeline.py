"""The whole pipeline, with real DVC, MLflow and W&B, in a project of its own."""

import csv
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo

from tests.faults.kills import wait_until
from tests.isolation import can_isolate, outside_addresses
from tests.project import (
    PLANTED,
    PROJECT,
    SECRETS,
    Workspace,
    mlflow_runs,
    temporary_of,
    tiny_project,
    trace_of,
)
from toygpt.cli import main
from toygpt.tracking.wandb_files import read_runs

pytestmark = pytest.mark.slow

# Runs `python . ARGUMENTS` in a project; returns its exit code and what it printed.
Command = Callable[..., tuple[int, str]]
STAGES = ["download", "tokenize", "split", "train", "evaluate", "generate-samples"]


@pytest.fixture(scope="module")
def work(
    built: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workspace]:
    """Return a copy of the built project, with the secrets, for this file to work in.

    At the end no file of it holds a secret.
    """
    copy = built.copy_to(tmp_path_factory.mktemp("work") / "project")
    copy.environment |= SECRETS
    yield copy
    assert_no_secrets(copy)


def assert_no_secrets(workspace: Workspace) -> None:
    """Search all files, also those of Git, DVC and the trackers."""
    planted = [secret.encode() for secret in PLANTED]
    where_they_are_planted = {Path(".git/config"), Path("tests/project.py")}
    files = [path for path in workspace.root.rglob("*") if path.is_file()]
    assert len(files) > 200
    for path in files:
        if path.relative_to(workspace.root) not in where_they_are_planted:
            contents = path.read_bytes()
            assert not [secret for secret in planted if secret in contents], path


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return a function that runs `python . ARGUMENTS` in this process.

    Its imports, seconds of them, are there already.
    """

    def run(workspace: Workspace, *arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(workspace.root)
        for name, value in workspace.environment.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        code = main(arguments, program="python .")
        return code, capsys.readouterr().out

    return run


def run_names_and_ids_in_wandb(workspace: Workspace) -> dict[str, set[str]]:
    names: dict[str, set[str]] = {}
    for run in read_runs(workspace.root):
        names.setdefault(run.name, set()).add(run.run_id)
    return names


def test_repro_makes_every_result(built: Workspace) -> None:
    for path in (
        "data/documents/documents.parquet",
        "data/tokens/tokens.bin",
        "data/tokens/ends.bin",
        "data/tokens/manifest.json",
        "data/splits/train.bin",
        "data/splits/manifest.json",
        "models/toygpt/model.safetensors",
        "models/toygpt/README.md",
        "reports/samples/samples.md",
    ):
        assert (built.root / path).stat().st_size > 0

    for name in STAGES:
        metrics = json.loads((built.root / f"metrics/{name}.json").read_text())
        assert all(isinstance(value, int | float) for value in metrics.values())


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


def test_the_curves_are_dense_and_reach_the_last_step(built: Workspace) -> None:
    for name in ("train", "validation"):
        with (built.root / f"reports/train/{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert all(all(row.values()) for row in rows)
        assert rows[-1]["step"] == "6"


def test_a_second_repro_runs_nothing(work: Workspace) -> None:
    output = work.dvc("repro").stdout

    assert "Running stage" not in output
    assert work.dvc("status").stdout.strip() == "Data and pipelines are up to date."


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tracking.project": "another", "tracking.wandb": "online"}, []),
        ({"runtime.micro_batch_size": 1, "runtime.compile": False}, []),
        ({"models.small.num_layers": 3, "models.large.num_heads": 8}, []),
        ({"generate-samples.max_new_tokens": 5}, ["generate-samples"]),
        ({"train.learning_rate": 0.5}, ["train"]),
        ({"split.key": 5}, ["split"]),
        ({"models.nano.embed_dim": 4}, ["train"]),
    ],
)
def test_a_parameter_reruns_the_stages_that_use_it(
    work: Workspace,
    changes: dict[str, object],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Later stages rerun too, once their inputs have changed; status cannot know."""
    monkeypatch.chdir(work.root)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", work.environment["DVC_SITE_CACHE_DIR"])
    with work.changed(changes), Repo() as repo:
        assert list(repo.status()) == expected


def test_the_trackers_have_one_run_with_everything(built: Workspace) -> None:
    oldest = mlflow_runs(built)[-1]

    commit = oldest.data.tags["mlflow.source.git.commit"]
    assert oldest.info.run_name == f"nano-python-{commit[:7]}"
    assert oldest.info.status == "FINISHED"
    assert oldest.data.params["models.nano.embed_dim"] == "8"
    assert "models.small.embed_dim" not in oldest.data.params
    assert "hub.wikisource.text" not in oldest.data.params
    assert oldest.data.params["train.learning_rate"] == "0.002"
    assert oldest.data.tags["git.dirty"] == "false"
    assert oldest.data.metrics.keys() >= {
        *("train_loss", "validation_loss", "gradient_norm"),
        *("muon_learning_rate", "adamw_learning_rate"),
        *("tokens_per_second", "tokens_seen"),
        *("test_bits_per_byte", "test_bits_per_byte_standard_error"),
    }
    artifacts = built.root / "mlartifacts/toygpt" / oldest.info.run_id / "artifacts"
    assert (artifacts / "model/model.safetensors").is_file()
    assert (artifacts / "samples/samples.md").is_file()

    (run, *_others) = [
        run
        for run in read_runs(built.root)
        if run.name == oldest.info.run_name and run.history
    ]
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
    before = len(mlflow_runs(work))
    train = ("exp", "run", "train", "-n")
    work.dvc(*train, IN_TEMPORARY, "--temp", "-S", "train.optimizer=adamw")
    work.dvc(*train, IN_WORKSPACE, "-S", "train.learning_rate=4e-3")

    shown = numbers_shown(work, "test_bits_per_byte")
    assert float(shown.pop("main")) > 0
    assert shown == {"workspace": "", IN_WORKSPACE: "", IN_TEMPORARY: ""}
    assert all(map(float, numbers_shown(work, "validation_loss").values()))
    assert not (work.root / "reports/samples").exists()
    assert len(mlflow_runs(work)) == before + 2
    work.run("git", "checkout", "--quiet", "--", ".")
    work.dvc("checkout")
    return work


def test_every_experiment_is_one_run_of_its_name_in_the_main_project(
    with_experiments: Workspace,
) -> None:
    runs = {run.info.run_name: run for run in mlflow_runs(with_experiments)}
    for name, key, value in (
        (IN_WORKSPACE, "train.learning_rate", "0.004"),
        (IN_TEMPORARY, "train.optimizer", "adamw"),
    ):
        assert runs[name].info.status == "FINISHED"
        assert runs[name].data.params[key] == value
        assert runs[name].data.tags["dvc.experiment"] == name
        assert runs[name].data.tags["dvc.baseline"]
        assert runs[name].data.tags["git.dirty"] == "false"
        assert "test_bits_per_byte" not in runs[name].data.metrics
        assert len(run_names_and_ids_in_wandb(with_experiments)[name]) == 1


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
    restored = copy.dvc("exp", "run", "train", "-S", "train.learning_rate=4e-3").stdout
    assert "Stage 'train' is cached" in restored

    code, page = command(copy, "doctor")
    assert code == 1
    commands = re.findall(r"^ {8}(dvc repro .*)", page, re.MULTILINE)
    assert commands == [
        "dvc repro --single-item evaluate",
        "dvc repro --single-item generate-samples",
    ]
    assert "metrics/evaluate.json: not measured on models/toygpt" in page
    copy.dvc("repro", "--single-item", "evaluate", "generate-samples")

    code, page = command(copy, "doctor")
    assert (code, page.splitlines()[-1]) == (0, "All is well.")
    numbers = numbers_shown(copy, "test_bits_per_byte")
    assert numbers["workspace"] != numbers["main"]


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
    copy.set_params({"train.validate_every_tokens": 256, "runtime.devices": 2})

    done = copy.run("python", "-m", "stages.train")

    assert "Error" not in done.stderr
    one, two = (
        json.loads((workspace.root / "metrics/train.json").read_text())
        for workspace in (built, copy)
    )
    assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-3)
    assert len(mlflow_runs(copy)) == len(mlflow_runs(built)) + 1


def test_the_trackers_are_rebuilt_from_the_results(
    with_experiments: Workspace, tmp_path: Path, command: Command
) -> None:
    """Of the workspace and of every experiment, as after a `dvc exp pull`.

    The experiments were trained, but not evaluated: their commits hold the evaluation
    of another model.
    """
    copy = with_experiments.copy_to(tmp_path / "project")
    for name in (".toygpt", "mlflow.db", "mlartifacts", "wandb"):
        copy.run("rm", "-r", name)

    first, second = (command(copy, "track")[1] for _ in range(2))

    names = {"nano-python-restored", IN_WORKSPACE, IN_TEMPORARY}
    assert {run.info.run_name for run in mlflow_runs(copy)} == names
    assert set(run_names_and_ids_in_wandb(copy)) == names
    for run in mlflow_runs(copy):
        weights = run.data.tags["weights.sha256"]
        before = next(
            run
            for run in mlflow_runs(with_experiments)
            if run.data.tags.get("weights.sha256") == weights
        )
        assert run.data.params == before.data.params
        for metric in ("validation_loss", "test_bits_per_byte", "muon_learning_rate"):
            expected = pytest.approx(before.data.metrics.get(metric))  # or None
            assert run.data.metrics.get(metric) == expected
        is_experiment = run.info.run_name != "nano-python-restored"
        assert ("test_bits_per_byte" in run.data.metrics) != is_experiment
    assert first.count("synced: ") == 3
    assert second == "everything is synced\n"


def test_plots_show_both_losses_and_both_learning_rates(
    with_experiments: Workspace,
) -> None:
    """Without Muon its curve is not drawn: not as zero, and not as an error."""
    diff = ("plots", "diff", "HEAD", IN_TEMPORARY)
    with_experiments.dvc(*diff, "--out", "plots")

    drawn_page = with_experiments.root / "plots/index.html"
    page = drawn_page.read_text()
    drawn_page.unlink()
    for text in ("validation.csv", "train.csv", "loss (nats per token)", "tokens seen"):
        assert text in page

    shown = json.loads(with_experiments.dvc(*diff, "--json").stdout)
    assert "errors" not in shown
    [plot] = shown["data"]["Learning rates"]
    drawn: dict[str, set[str]] = {}
    for point in plot["content"]["data"]["values"]:
        of_curve = drawn.setdefault(f"{point['rev']} {point['field']}", set())
        of_curve.add(point["dvc_inferred_y_value"])
    assert "0.03" in drawn["HEAD muon_learning_rate"]
    assert "0.002" in drawn["HEAD adamw_learning_rate"]
    assert drawn[f"{IN_TEMPORARY} muon_learning_rate"] == {"nan"}
    assert "0.002" in drawn[f"{IN_TEMPORARY} adamw_learning_rate"]


def test_a_remote_brings_everything_back(project: Workspace, tmp_path: Path) -> None:
    remote = str(tmp_path / "remote")
    project.dvc("remote", "add", "--default", "--local", "storage", remote)
    project.dvc("push")
    project.run("rm", "-r", "data", "models", "reports", ".dvc/cache")

    project.dvc("pull")

    assert "up to date" in project.dvc("status").stdout


def test_a_bad_parameter_stops_the_first_stage(work: Workspace) -> None:
    lock = (work.root / "dvc.lock").read_bytes()

    with work.changed({"train.learning_rate": -1.0, "download.max_documents": 30}):
        failed = work.dvc("repro", check=False)
    work.dvc("checkout", "--force")

    assert failed.returncode != 0
    assert "train.learning_rate: got -1.0" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (work.root / "dvc.lock").read_bytes() == lock


def test_no_result_holds_a_secret(built: Workspace) -> None:
    assert_no_secrets(built)


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
    ids = run_names_and_ids_in_wandb(fresh)
    assert [len(ids[name]) for name in ("first-40", "first-41")] == [1, 1]
