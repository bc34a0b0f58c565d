"""What the trackers are told, and that training goes on whatever becomes of them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.tiny import (
    predictable_text,
    runtime_params,
    tiny_model,
    train_params,
)
from toygpt.training.tracking.wandb_files import WandbRun, read_runs
from toygpt.errors import InputError
from toygpt.params import TrackingParams
from toygpt.training.curves import Curves
from toygpt.training.tracking import model_from_mlflow, new_run, run_of_model
from toygpt.training.trainer import Outcome, train

PROJECT = Path(__file__).resolve().parents[1]
WEIGHTS = "ab" * 32

FIRST_RUN = """
import sys
from pathlib import Path

from toygpt.params import TrackingParams
from toygpt.training.tracking import new_run

tracking = TrackingParams(mlflow=True, wandb="disabled", project="race", tags={})
with new_run(sys.argv[2], {}, {}, tracking=tracking, root=Path(sys.argv[1])) as run:
    run.log_metrics({"loss": 1.5}, step=1)
"""


class Answer(NamedTuple):
    """How a process ended."""

    returncode: int
    stderr: str


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Answer]]:
    """Let two processes be the first to use MLflow in the same folder.

    The first but for one that was killed before its database was finished.
    """
    root = tmp_path_factory.mktemp("shared")
    (root / ".toygpt").mkdir()
    (root / ".toygpt" / "mlflow.db.new").write_bytes(b"SQLite format 3\0 and no more")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_RUN, str(root), name],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "other")
    ]
    answers = [(process.communicate()[1], process.returncode) for process in processes]
    return root, [Answer(returncode, stderr) for stderr, returncode in answers]


@pytest.fixture
def mlflow_root(race: tuple[Path, list[Answer]]) -> Path:
    """Return a folder where MLflow's database lies already: making one takes long."""
    return race[0]


@pytest.fixture
def wandb_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder for W&B, of which nobody is logged in."""
    import wandb

    for folder in ("home", "elsewhere", "root"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield tmp_path / "root"
    wandb.teardown()  # it remembers the folders of a process's first run


@pytest.fixture
def project(request: pytest.FixtureRequest) -> str:
    """Return a name that no other test's runs have."""
    return str(request.node.name)


def mlflow_for(project: str, **changes: Any) -> TrackingParams:
    """Return parameters that track with MLflow alone."""
    values: dict[str, Any] = {
        "mlflow": True,
        "wandb": "disabled",
        "project": project,
        "tags": {},
    }
    return TrackingParams(**values | changes)


def wandb_for(**changes: Any) -> TrackingParams:
    """Return parameters that track with W&B alone."""
    values: dict[str, Any] = {
        "mlflow": False,
        "wandb": "offline",
        "project": "toy",
        "tags": {},
    }
    return TrackingParams(**values | changes)


def nobody() -> TrackingParams:
    """Return parameters that track with nobody."""
    return mlflow_for("toy", mlflow=False)


def mlflow_client(root: Path) -> Any:
    """Return MLflow's own way to look at what it holds."""
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{root / 'mlflow.db'}")


def mlflow_runs(root: Path, project: str) -> list[Any]:
    """Return all runs of a project."""
    client = mlflow_client(root)
    experiment = client.get_experiment_by_name(project)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def wandb_runs(root: Path) -> list[WandbRun]:
    """Return what W&B holds, when it has written all of it."""
    import wandb

    wandb.teardown()
    return read_runs(root)


def warnings_on(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what our own code has warned of."""
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("warning: ")]


def points(root: Path, run: Any, metric: str) -> list[tuple[int, float]]:
    """Return the points of a curve: steps and values."""
    history = mlflow_client(root).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in history)


def test_two_first_runs_at_once_share_one_database(
    race: tuple[Path, list[Answer]],
) -> None:
    root, answers = race

    runs = mlflow_runs(root, "race")

    for answer in answers:
        assert answer == Answer(returncode=0, stderr="")
    assert sorted(run.info.run_name for run in runs) == ["one", "other"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    names = [each.name for each in mlflow_client(root).search_experiments()]
    assert names.count("race") == 1


def test_mlflow_holds_all_that_it_was_told(
    mlflow_root: Path, project: str, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "deep").mkdir()
    (tmp_path / "model" / "deep" / "file").write_text("text")

    with new_run(
        "nano-python",
        {"seed": 7, "train.learning_rate": 1e-3, "download.max_documents": None},
        {"git.commit": "c0ffee", "device": "abacus"},
        tracking=mlflow_for(project, tags={"mood": "good"}),
        root=mlflow_root,
    ) as run:
        run.log_metrics({"loss": 3.0, "speed": 10.0}, step=5)
        run.log_metrics({"loss": 2.0}, step=10)
        run.log_metrics({"parameters": 123.0})
        run.log_facts({"weights.sha256": WEIGHTS})
        run.log_directory(tmp_path / "model", name="model")

    (told,) = mlflow_runs(mlflow_root, project)
    assert told.info.run_name == "nano-python"
    assert told.data.params == {
        "seed": "7",
        "train.learning_rate": "0.001",
        "download.max_documents": "None",
    }
    tags = told.data.tags
    assert tags["mood"] == "good"
    assert tags["device"] == "abacus"
    assert tags["mlflow.source.git.commit"] == "c0ffee"
    assert tags["weights.sha256"] == WEIGHTS
    assert points(mlflow_root, told, "loss") == [(5, 3.0), (10, 2.0)]
    assert points(mlflow_root, told, "speed") == [(5, 10.0)]
    assert points(mlflow_root, told, "parameters") == [(0, 123.0)]
    folder = mlflow_root / "mlartifacts" / project / told.info.run_id / "artifacts"
    assert (folder / "model" / "config.json").read_text() == "{}"
    assert (folder / "model" / "deep" / "file").read_text() == "text"


def test_mlflow_takes_more_parameters_than_it_takes_at_once(
    mlflow_root: Path, project: str
) -> None:
    params = {f"prompt.{number}": number for number in range(250)} | {
        "long": "x" * 9999
    }

    with new_run(
        "name", params, {}, tracking=mlflow_for(project), root=mlflow_root
    ) as run:
        assert "mlflow" in run.trackers

    (told,) = mlflow_runs(mlflow_root, project)
    assert told.data.params == {
        name: str(value)[:6000] for name, value in params.items()
    }


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (ValueError("no"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(1), "KILLED"),
    ],
)
def test_a_run_ends_as_its_block_does(
    mlflow_root: Path, project: str, error: BaseException | None, status: str
) -> None:
    seen: BaseException | None = None

    try:
        with new_run("name", {}, {}, tracking=mlflow_for(project), root=mlflow_root):
            if error is not None:
                raise error
    except BaseException as raised:
        seen = raised

    assert seen is error
    (told,) = mlflow_runs(mlflow_root, project)
    assert told.info.status == status
    assert told.info.end_time is not None


def test_a_later_stage_goes_on_with_the_run_of_its_model(
    mlflow_root: Path, project: str, tmp_path: Path
) -> None:
    (tmp_path / "samples.md").write_text("Once")
    with new_run(
        "name", {"seed": 1}, {}, tracking=mlflow_for(project), root=mlflow_root
    ) as run:
        run.log_metrics({"loss": 3.0}, step=5)
        run.remember(project)
    (trained,) = mlflow_runs(mlflow_root, project)

    with run_of_model(project, tracking=mlflow_for(project), root=mlflow_root) as run:
        run.log_metrics({"test_loss": 2.5})
        run.log_directory(tmp_path, name="samples")

    (judged,) = mlflow_runs(mlflow_root, project)
    assert judged.info.run_id == trained.info.run_id
    assert (judged.info.status, judged.info.end_time) == (
        "FINISHED",
        trained.info.end_time,
    )
    assert judged.data.metrics == {"loss": 3.0, "test_loss": 2.5}
    folder = mlflow_root / "mlartifacts" / project / judged.info.run_id / "artifacts"
    assert (folder / "samples" / "samples.md").read_text() == "Once"


def test_a_failing_later_stage_leaves_the_training_finished(
    mlflow_root: Path, project: str
) -> None:
    tracking = mlflow_for(project)
    with new_run("name", {}, {}, tracking=tracking, root=mlflow_root) as run:
        run.remember(project)

    with (
        pytest.raises(ValueError, match="no test split"),
        run_of_model(project, tracking=tracking, root=mlflow_root),
    ):
        raise ValueError("no test split")

    (told,) = mlflow_runs(mlflow_root, project)
    assert told.info.status == "FINISHED"


def test_a_model_that_was_not_trained_here_has_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = mlflow_for("toy", wandb="offline")

    with run_of_model(WEIGHTS, tracking=both, root=tmp_path) as run:
        run.log_metrics({"test_loss": 1.0})
        run.log_facts({"a": "b"})
        run.log_directory(tmp_path, name="samples")

    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


def test_a_model_that_was_trained_untold_has_no_run(
    mlflow_root: Path, project: str
) -> None:
    """Trackers that were off while it trained, or failed, know nothing of it."""
    with new_run("name", {}, {}, tracking=nobody(), root=mlflow_root) as run:
        run.remember(project)

    with run_of_model(project, tracking=mlflow_for(project), root=mlflow_root) as run:
        run.log_metrics({"test_loss": 1.0})

    assert mlflow_runs(mlflow_root, project) == []


def test_a_tracker_that_was_muted_meanwhile_hears_no_more(
    mlflow_root: Path, project: str
) -> None:
    tracking = mlflow_for(project)
    with new_run("name", {}, {}, tracking=tracking, root=mlflow_root) as run:
        run.remember(project)

    with run_of_model(project, tracking=nobody(), root=mlflow_root) as run:
        run.log_metrics({"test_loss": 1.0})

    (told,) = mlflow_runs(mlflow_root, project)
    assert told.data.metrics == {}


def test_without_trackers_nothing_is_opened(tmp_path: Path) -> None:
    with new_run("name", {"seed": 1}, {}, tracking=nobody(), root=tmp_path) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        run.log_directory(tmp_path, name="model")

    assert not run.trackers
    assert not list(tmp_path.iterdir())


def ten_steps(curves: Curves) -> Outcome:
    """Train a tiny model."""
    return train(
        tiny_model(),
        predictable_text(1_000),
        predictable_text(1_000),
        params=train_params(),
        runtime=runtime_params(),
        seed=1,
        curves=curves,
    )


def test_a_tracker_that_cannot_be_opened_is_named_once_and_training_goes_on(
    mlflow_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow takes the rest of a path after a question mark for a query."""
    root = mlflow_root / "what?"
    root.mkdir()

    with new_run("name", {}, {}, tracking=mlflow_for("toygpt"), root=root) as run:
        curves = Curves(run)
        outcome = ten_steps(curves)

    assert outcome.steps == 10
    assert len(curves.train) == 10
    (warning,) = warnings_on(capsys)
    assert warning.startswith("warning: mlflow gets no more of this run: ")


def test_a_tracker_that_fails_meanwhile_is_named_once_and_the_run_goes_on(
    mlflow_root: Path, project: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow refuses names with question marks in them."""
    tracking = mlflow_for(project)

    with new_run("name", {}, {}, tracking=tracking, root=mlflow_root) as run:
        run.log_metrics({"loss": 3.0}, step=1)
        run.log_metrics({"loss?": 2.0}, step=2)
        run.log_metrics({"loss?": 1.0}, step=3)
        run.log_facts({"a": "b"})

    (warning,) = warnings_on(capsys)
    assert warning.startswith("warning: mlflow gets no more of this run: ")
    (told,) = mlflow_runs(mlflow_root, project)
    assert points(mlflow_root, told, "loss") == [(1, 3.0)]


def test_a_run_that_a_tracker_failed_in_is_not_left_running(
    mlflow_root: Path, project: str
) -> None:
    """Nobody would ever end it: it would seem to train for years."""
    tracking = mlflow_for(project)

    with new_run("name", {}, {}, tracking=tracking, root=mlflow_root) as run:
        run.log_metrics({"loss?": 2.0}, step=2)

    (told,) = mlflow_runs(mlflow_root, project)
    assert told.info.status != "RUNNING"


def test_a_later_stage_that_fails_to_tell_leaves_the_training_finished(
    mlflow_root: Path, project: str
) -> None:
    tracking = mlflow_for(project)
    with new_run("name", {}, {}, tracking=tracking, root=mlflow_root) as run:
        run.remember(WEIGHTS)

    with run_of_model(WEIGHTS, tracking=tracking, root=mlflow_root) as run:
        run.log_metrics({"loss?": 2.0})

    (told,) = mlflow_runs(mlflow_root, project)
    assert told.info.status == "FINISHED"


def test_one_failing_tracker_does_not_stop_the_other(
    wandb_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where MLflow's lock belongs there is a folder."""
    (wandb_root / ".toygpt" / "mlflow.lock").mkdir(parents=True)
    both = wandb_for(mlflow=True)

    with new_run("name", {}, {}, tracking=both, root=wandb_root) as run:
        run.log_metrics({"loss": 3.0}, step=1)

    (warning,) = warnings_on(capsys)
    assert warning.startswith("warning: mlflow gets no more of this run: ")
    (told,) = wandb_runs(wandb_root)
    assert told.history == [{"loss": 3.0, "step": 1}]


def test_a_run_that_cannot_be_remembered_does_not_fail_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".toygpt").write_text("a file where the folder should be")

    with new_run("name", {}, {}, tracking=nobody(), root=tmp_path) as run:
        run.remember(WEIGHTS)

    assert len(warnings_on(capsys)) == 1


@pytest.mark.parametrize("text", ["", "{", "{}", "[]"])
def test_a_damaged_memory_of_a_run_does_not_fail_a_later_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / ".toygpt" / "runs" / f"{WEIGHTS}.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)

    with run_of_model(WEIGHTS, tracking=nobody(), root=tmp_path) as run:
        run.log_metrics({"test_loss": 1.0})

    assert len(warnings_on(capsys)) == 1


def test_wandb_holds_all_that_it_was_told(wandb_root: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")

    with new_run(
        "nano-python",
        {"seed": 7, "train.learning_rate": 1e-3},
        {"git.commit": "c0ffee"},
        tracking=wandb_for(tags={"mood": "good"}),
        root=wandb_root,
    ) as run:
        run.log_metrics({"loss": 3.0, "speed": 10.0}, step=5)
        run.log_metrics({"loss": 2.0}, step=10)
        run.log_metrics({"parameters": 123.0})
        run.log_directory(tmp_path / "model", name="model")
    wandb_id = run.trackers["wandb"].run_id

    (told,) = wandb_runs(wandb_root)
    assert (told.run_id, told.project, told.name) == (wandb_id, "toy", "nano-python")
    assert told.tags == ["mood: good"]
    assert told.config == {
        "seed": 7,
        "train.learning_rate": 1e-3,
        "git.commit": "c0ffee",
    }
    assert told.history == [
        {"loss": 3.0, "speed": 10.0, "step": 5},
        {"loss": 2.0, "step": 10},
    ]
    assert told.summary["loss"] == 2.0
    assert told.summary["parameters"] == 123.0
    assert told.artifacts == {f"model-{wandb_id}": {"config.json"}}
    assert told.exit_code == 0


def test_wandb_leaves_nothing_outside_the_folders_that_git_ignores(
    wandb_root: Path, tmp_path: Path
) -> None:
    with new_run("name", {}, {}, tracking=wandb_for(), root=wandb_root) as run:
        run.log_metrics({"loss": 3.0}, step=5)
        run.log_directory(PROJECT / "stages", name="model")

    assert {path.name for path in wandb_root.iterdir()} == {"wandb", ".toygpt"}
    assert not list((tmp_path / "home").iterdir())
    assert not list((tmp_path / "elsewhere").iterdir())


def test_wandb_knows_that_a_training_failed(wandb_root: Path) -> None:
    with (
        pytest.raises(ValueError, match="diverged"),
        new_run("name", {}, {}, tracking=wandb_for(), root=wandb_root),
    ):
        raise ValueError("diverged")

    (told,) = wandb_runs(wandb_root)
    assert told.exit_code == 1


def test_wandb_adds_what_later_stages_find_to_the_same_run(wandb_root: Path) -> None:
    with new_run("name", {"seed": 1}, {}, tracking=wandb_for(), root=wandb_root) as run:
        run.remember(WEIGHTS)

    with run_of_model(WEIGHTS, tracking=wandb_for(), root=wandb_root) as run:
        run.log_metrics({"test_loss": 2.5})

    trained, judged = wandb_runs(wandb_root)
    assert trained.run_id == judged.run_id
    assert judged.summary["test_loss"] == 2.5
    assert judged.config == {}, "an empty value would overwrite what training told"


def test_online_without_a_key_is_offline_and_asks_nobody(
    wandb_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = wandb_for(wandb="online")

    with new_run("name", {"seed": 1}, {}, tracking=tracking, root=wandb_root) as run:
        run.log_metrics({"loss": 3.0}, step=5)

    (warning,) = warnings_on(capsys)
    assert warning.startswith("warning: wandb has no API key and keeps the run offline")
    (told,) = wandb_runs(wandb_root)
    assert told.history == [{"loss": 3.0, "step": 5}]


def test_a_training_is_tracked_point_by_point(mlflow_root: Path, project: str) -> None:
    with new_run("name", {}, {}, tracking=mlflow_for(project), root=mlflow_root) as run:
        curves = Curves(run)
        ten_steps(curves)

    (told,) = mlflow_runs(mlflow_root, project)
    for name, rows in (
        ("train_loss", curves.train),
        ("validation_loss", curves.validation),
    ):
        assert points(mlflow_root, told, name) == [
            (int(row["step"]), row["loss"]) for row in rows
        ]


@pytest.fixture
def kept_run(mlflow_root: Path, project: str, tmp_path: Path) -> Any:
    """Return a run with which MLflow keeps a model, as the stage train leaves it."""
    model = tmp_path / "model"
    (model / "deep").mkdir(parents=True)
    (model / "config.json").write_text(project)
    (model / "deep" / "file").write_text("text")
    with new_run("name", {}, {}, tracking=mlflow_for(project), root=mlflow_root) as run:
        run.log_directory(model, name="model")
    (told,) = mlflow_runs(mlflow_root, project)
    return told


def files_in(folder: Path) -> dict[str, str]:
    """Return the texts of all files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_kept_model_is_there_for_as_long_as_it_is_needed(
    mlflow_root: Path,
    project: str,
    kept_run: Any,
    scratch: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    kept = Path(kept_run.info.artifact_uri.removeprefix("file://")) / "model"
    address = f"runs:/{kept_run.info.run_id}/model"

    with model_from_mlflow(address, root=mlflow_root) as directory:
        files = files_in(directory)
        (directory / "config.json").write_text("changed")
        is_a_copy = directory.is_relative_to(scratch)

    assert files == {"config.json": project, "deep/file": "text"}
    assert is_a_copy
    assert not list(scratch.iterdir())
    assert files_in(kept) == files, "MLflow's own"
    assert capfd.readouterr() == ("", "")


def test_a_kept_model_leaves_nothing_behind_where_its_use_fails(
    mlflow_root: Path, kept_run: Any, scratch: Path
) -> None:
    address = f"runs:/{kept_run.info.run_id}/model"

    with (
        pytest.raises(ValueError, match="damaged"),
        model_from_mlflow(address, root=mlflow_root),
    ):
        assert list(scratch.iterdir())
        raise ValueError("damaged")

    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    "which", ["/1", "/latest", "@best"], ids=["version", "latest", "alias"]
)
def test_a_registered_model_is_found_from_any_folder(
    mlflow_root: Path,
    project: str,
    kept_run: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    which: str,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    client, name = mlflow_client(mlflow_root), f"toy{which[1:]}"
    client.create_registered_model(name)
    client.create_model_version(
        name,
        source=f"{kept_run.info.artifact_uri}/model",
        run_id=kept_run.info.run_id,
    )
    client.set_registered_model_alias(name, "best", "1")

    try:
        with model_from_mlflow(f"models:/{name}{which}", root=mlflow_root) as found:
            files = files_in(found)
    finally:
        left = [path.name for path in Path().iterdir()]

    assert files == {"config.json": project, "deep/file": "text"}
    assert not left


UNKNOWN = {
    "run": f"runs:/{'0' * 32}/model",
    "artifact": "runs:/RUN/samples",
    "folder-of-an-artifact": "runs:/RUN/model/deeper",
    "folder-outside": "runs:/RUN/../model",
    "no-artifact": "runs:/RUN",
    "no-run": "runs:/",
    "version": "models:/nobody/1",
    "latest": "models:/nobody/latest",
    "alias": "models:/nobody@best",
    "no-version": "models:/nobody",
    "no-name": "models:/",
}


@pytest.mark.parametrize("address", UNKNOWN.values(), ids=UNKNOWN)
def test_a_model_that_mlflow_does_not_keep_is_named(
    mlflow_root: Path,
    kept_run: Any,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
) -> None:
    monkeypatch.chdir(mlflow_root)
    address = address.replace("RUN", kept_run.info.run_id)

    with (
        pytest.raises(InputError) as caught,
        model_from_mlflow(address, root=mlflow_root),
    ):
        pass

    assert str(caught.value).startswith(f"cannot get {address} from MLflow: ")
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("address", ["runs:/abc/model", "models:/toy/1"])
def test_without_a_database_none_is_made(tmp_path: Path, address: str) -> None:
    with (
        pytest.raises(InputError) as caught,
        model_from_mlflow(address, root=tmp_path),
    ):
        pass

    expected = f"cannot look up {address}: there is no mlflow.db in {tmp_path}"
    assert str(caught.value) == expected
    assert not list(tmp_path.iterdir())


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 500)

    with (
        pytest.raises(InputError, match="runs:/abc/model"),
        model_from_mlflow("runs:/abc/model", root=tmp_path),
    ):
        pass
