"""The whole pipeline, with real DVC, MLflow and W&B, in a project of its own."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from tests.isolation import can_isolate, isolated, outside_addresses
from tests.kills import wait_until
from tests.project import Workspace, tiny_project
from toygpt.training.tracking.wandb_files import read_runs

STAGES = ["download", "tokenize", "split", "train", "evaluate", "generate-samples"]


# What nobody but the service that it is meant for may ever see.
SECRETS = {
    "HF_TOKEN": "hf_planted0123456789",
    "WANDB_API_KEY": "planted012345678901234567890123456789012",
    "DATABASE_URL": "postgres://someone:planted-in-an-address@example.com/base",
}
REMOTE = "https://someone:planted-in-the-remote@example.com/toygpt.git"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project after its first `dvc repro`, without a network, committed."""
    workspace = tiny_project(tmp_path_factory.mktemp("built") / "project")
    workspace.environment |= SECRETS
    workspace.run("git", "remote", "add", "origin", REMOTE)
    if can_isolate():
        workspace.run(*isolated("dvc", "repro", trace=trace_of(workspace)))
    else:
        workspace.dvc("repro")
    workspace.commit("first results")
    return workspace


def trace_of(workspace: Workspace) -> Path:
    return workspace.root.parent / "connections.txt"


def mlflow_runs(workspace: Workspace) -> list[Run]:
    client = mlflow.MlflowClient(f"sqlite:///{workspace.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("toygpt")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


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
        pytest.skip("it passed without a network; strace would tell what it tried")

    assert "connect(" in trace_of(built).read_text()  # W&B's process, on this machine
    assert outside_addresses(trace_of(built)) == []


def test_the_curves_are_dense_and_reach_the_last_step(built: Workspace) -> None:
    for name in ("train", "validation"):
        with (built.root / f"reports/train/{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert all(all(row.values()) for row in rows)
        assert rows[-1]["step"] == "6"


def test_a_second_repro_runs_nothing(built: Workspace) -> None:
    output = built.dvc("repro").stdout

    assert "Running stage" not in output
    assert built.dvc("status").stdout.strip() == "Data and pipelines are up to date."


def test_forcing_every_stage_leaves_the_lock_as_it_was(built: Workspace) -> None:
    lock = (built.root / "dvc.lock").read_bytes()

    built.set_params({"tracking.mlflow": False, "tracking.wandb": "disabled"})
    output = built.dvc("repro", "--force").stdout
    built.run("git", "checkout", "--quiet", "params.yaml")

    assert output.count("Running stage") == len(STAGES)
    assert (built.root / "dvc.lock").read_bytes() == lock
    assert built.run("git", "status", "--porcelain").stdout == ""


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
    built: Workspace, changes: dict[str, object], expected: list[str]
) -> None:
    """Later stages rerun too, once what they read has changed; status cannot know."""
    before = (built.root / "params.yaml").read_text()
    try:
        built.set_params(changes)
        status = json.loads(built.dvc("status", "--json").stdout)
    finally:
        (built.root / "params.yaml").write_text(before)

    assert list(status) == expected


def test_the_trackers_have_one_run_with_everything(built: Workspace) -> None:
    oldest = mlflow_runs(built)[-1]

    commit = oldest.data.tags["mlflow.source.git.commit"]
    assert oldest.info.run_name == f"nano-python-{commit[:7]}"
    assert oldest.info.status == "FINISHED"
    assert oldest.data.params["models.nano.embed_dim"] == "8"
    assert oldest.data.params["train.learning_rate"] == "0.002"
    assert oldest.data.tags["git.dirty"] == "false"
    for metric in ("train_loss", "validation_loss", "learning_rate", "gradient_norm"):
        assert metric in oldest.data.metrics
    for metric in ("tokens_per_second", "tokens_seen", "test_bits_per_byte"):
        assert metric in oldest.data.metrics
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


def test_every_experiment_is_one_run_of_its_name_in_the_main_project(
    built: Workspace,
) -> None:
    before = len(mlflow_runs(built))
    for name, options in (
        ("in-the-workspace", ()),
        ("in-a-temporary-folder", ("--temp",)),
    ):
        rate = f"train.learning_rate={'3e-3' if options else '4e-3'}"
        built.dvc("exp", "run", "train", *options, "-n", name, "-S", rate)
        built.run("git", "checkout", "--quiet", "--", ".")
        built.dvc("checkout")

    runs = {run.info.run_name: run for run in mlflow_runs(built)}
    for name, rate in (
        ("in-the-workspace", "0.004"),
        ("in-a-temporary-folder", "0.003"),
    ):
        assert runs[name].info.status == "FINISHED"
        assert runs[name].data.params["train.learning_rate"] == rate
        assert runs[name].data.tags["dvc.experiment"] == name
        assert runs[name].data.tags["dvc.baseline"]
        assert len(run_names_and_ids_in_wandb(built)[name]) == 1
    assert len(mlflow_runs(built)) == before + 2
    shown = built.dvc("exp", "show", "--csv").stdout
    assert "in-the-workspace" in shown
    assert "in-a-temporary-folder" in shown


def test_two_devices_learn_what_one_does_and_speak_with_one_voice(
    built: Workspace, tmp_path: Path
) -> None:
    """Seven steps, so that the last validation comes after training."""
    copy = Workspace(tmp_path / "project")
    built.run("cp", "-r", str(built.root), str(copy.root))
    seven_steps = {"train.max_tokens": 448, "train.validate_every_tokens": 224}
    losses = []
    for devices in (1, 2):
        copy.set_params({**seven_steps, "runtime.devices": devices})
        done = copy.run("python", "-m", "stages.train")
        assert "Error" not in done.stderr
        metrics = json.loads((copy.root / "metrics/train.json").read_text())
        losses.append(metrics["validation_loss"])

    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert len(mlflow_runs(copy)) == len(mlflow_runs(built)) + 2


def test_the_trackers_are_rebuilt_from_the_results(
    built: Workspace, tmp_path: Path
) -> None:
    """Of the workspace and of every experiment, as after a `dvc exp pull`.

    The experiments were trained, but not evaluated: what their commits hold of an
    evaluation is that of another model.
    """
    copy = Workspace(tmp_path / "project")
    built.run("cp", "-r", str(built.root), str(copy.root))
    for name in (".toygpt", "mlflow.db", "mlartifacts", "wandb"):
        copy.run("rm", "-r", name)

    first, second = (copy.run("python", ".", "track").stdout for _ in range(2))

    names = {"nano-python-restored", "in-the-workspace", "in-a-temporary-folder"}
    assert {run.info.run_name for run in mlflow_runs(copy)} == names
    assert set(run_names_and_ids_in_wandb(copy)) == names
    for run in mlflow_runs(copy):
        (told,) = [r for r in mlflow_runs(built) if has_weights_of(run, r)][:1]
        assert run.data.params == told.data.params
        for metric in ("validation_loss", "test_bits_per_byte", "learning_rate"):
            expected = pytest.approx(told.data.metrics.get(metric))  # or none
            assert run.data.metrics.get(metric) == expected
        is_experiment = run.info.run_name != "nano-python-restored"
        assert ("test_bits_per_byte" in run.data.metrics) != is_experiment
    assert first.count("told: ") == 3
    assert second == "the trackers know everything\n"


def has_weights_of(one: Run, other: Run) -> bool:
    name = "weights.sha256"
    return bool(one.data.tags[name] == other.data.tags.get(name))


def test_plots_show_both_losses(built: Workspace) -> None:
    built.dvc("plots", "show", "--out", "plots")

    page = (built.root / "plots/index.html").read_text()
    (built.root / "plots/index.html").unlink()
    for text in ("validation.csv", "train.csv", "loss (nats per token)", "tokens seen"):
        assert text in page


def test_a_remote_brings_everything_back(built: Workspace, tmp_path: Path) -> None:
    built.dvc("remote", "add", "--default", "--local", "storage", str(tmp_path))
    built.dvc("push")
    built.run("rm", "-r", "data", "models", "reports", ".dvc/cache")

    built.dvc("pull")

    assert "up to date" in built.dvc("status").stdout
    assert "Running stage" not in built.dvc("repro").stdout


def test_a_bad_parameter_stops_the_first_stage(built: Workspace) -> None:
    before = (built.root / "params.yaml").read_text()
    lock = (built.root / "dvc.lock").read_bytes()
    try:
        built.set_params({"train.learning_rate": -1.0, "download.max_documents": 30})
        failed = built.dvc("repro", check=False)
    finally:
        (built.root / "params.yaml").write_text(before)
        built.dvc("checkout", "--force")

    assert failed.returncode != 0
    assert "train.learning_rate: got -1.0" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (built.root / "dvc.lock").read_bytes() == lock


def test_no_file_holds_a_secret(built: Workspace) -> None:
    """Whatever ran in the tests above: stages, experiments, trackers, pushes."""
    planted = [value.encode() for value in (*SECRETS.values(), "planted-in-the-remote")]
    where_they_are_put = {Path(".git/config"), Path("tests/test_pipeline.py")}
    files = [path for path in built.root.rglob("*") if path.is_file()]
    assert len(files) > 200
    for path in files:
        if path.relative_to(built.root) not in where_they_are_put:
            contents = path.read_bytes()
            assert not [secret for secret in planted if secret in contents], path


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Workspace]:
    """A project in which nothing has run yet; its queue ends with the test."""
    workspace = tiny_project(tmp_path / "project")
    yield workspace
    workspace.dvc("queue", "stop", "--kill", check=False)


@pytest.mark.chaos  # it takes two minutes
def test_two_queued_experiments_make_the_database_at_once(fresh: Workspace) -> None:
    """Each has documents of its own, since DVC's run cache may fail two writers.

    DVC lists the cache of a stage while another process writes to it, takes the
    unfinished file for a damaged one, and deletes it (`StageCache._load`).
    """
    for number in ("40", "41"):
        override = f"download.max_documents={number}"
        fresh.dvc("exp", "run", "--queue", "-n", f"first-{number}", "-S", override)

    fresh.dvc("queue", "start", "--jobs", "2")
    wait_for_queue(fresh)

    assert sorted(run.info.run_name for run in mlflow_runs(fresh)) == [
        "first-40",
        "first-41",
    ]
    assert {run.info.status for run in mlflow_runs(fresh)} == {"FINISHED"}
    ids = run_names_and_ids_in_wandb(fresh)
    assert {name: len(runs) for name, runs in ids.items()} == {
        "first-40": 1,
        "first-41": 1,
    }


def wait_for_queue(workspace: Workspace) -> None:
    """Wait until every queued experiment has succeeded."""

    def is_done() -> bool:
        table = workspace.dvc("queue", "status").stdout
        assert "Failed" not in table, table
        return table.count("Success") == 2

    wait_until(is_done)
