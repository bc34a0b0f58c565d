"""A training has one run in each tracker, whatever ends it and however often."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.project import PROJECT
from tests.tiny import predictable_text, runtime_params, tiny_model, train_params
from tests.tracking.trackers import (
    RUN_ID,
    end_wandb,
    give_database,
    kill,
    mlflow_client,
    mlflow_files,
    mlflow_rows,
    mlflow_runs,
    record_in,
    rows_of,
    run_in,
    start,
    tracked_by,
    until_it_says,
    wandb_rows,
    wandb_runs,
    warnings_on,
)
from toygpt.tracking import run as runs
from toygpt.tracking import sync_worker
from toygpt.tracking.mlflow import MLflowTracker
from toygpt.tracking.record import RunInfo, runs_folder
from toygpt.tracking.run import (
    bring_up_to_date,
    forget_lost,
    null_run,
    run_of_model,
)
from toygpt.training.report import Curves
from toygpt.training.trainer import train

WEIGHTS = "ab" * 32
BOTH = tracked_by("mlflow", "wandb")
NOBODY = tracked_by()
SECRETS = {
    "HF_TOKEN": "hf_PlantedSecretOne",
    "WANDB_API_KEY": "f" * 20 + "5ec2e7" + "0" * 14,
    "HTTPS_PROXY": "http://user:PlantedSecretTwo@127.0.0.1:9",
}

# What W&B's process says of a run when the process that it follows is gone.
FOLLOWED_TO_DEATH = None

# Logs eight points, and of the last two nobody knows whether they were told.
AT_WORK = """
import os, sys, time
from pathlib import Path
from tests.faults.kills import wait_until
from tests.tracking.trackers import run_in, tracked_by, wandb_rows, mlflow_rows

root = Path(sys.argv[1])
with run_in(root, tracked_by("mlflow", "wandb")) as run:
    for step in range(1, 7):
        run.log_metrics({"loss": 1 / step, "speed": 10.0}, step=step)
    wait_until(lambda: len(mlflow_rows(root)) == 12)
    print("halfway", flush=True)
    for step in range(7, 9):
        run.log_metrics({"loss": 1 / step, "speed": 10.0}, step=step)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project in which a training was killed, and looked at before that."""
    root = give_database(tmp_path_factory.mktemp("killed") / "root", tmp_path_factory)
    process = start(AT_WORK, root, variables=SECRETS)
    with until_it_says(process, "halfway"):
        (root / "while-it-ran").write_text(state_of_things(root))
        kill(process)
    return root


def state_of_things(root: Path) -> str:
    """Let another training begin and end, and say what became of the first."""
    told = bring_up_to_date(BOTH, root)
    (run,) = mlflow_runs(root)
    info = record_in(root).info
    return f"{told} {run.info.status} {info.status} {len(wandb_runs(root))}"


@pytest.fixture
def killed_root(killed: Path, tmp_path: Path) -> Path:
    """Return a copy of that project for one test alone."""
    return Path(shutil.copytree(killed, tmp_path / "root"))


@pytest.fixture
def root(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with MLflow's database, in which nothing was trained."""
    return give_database(tmp_path / "root", tmp_path_factory)


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_worker, "PATIENCE_WITH_FAILURE_SECONDS", 0.5)
    monkeypatch.setattr(sync_worker, "FIRST_PAUSE_SECONDS", 0.1)


@pytest.fixture(autouse=True)
def _no_wandb_remains() -> Iterator[None]:
    yield
    end_wandb()


def status_in_mlflow(root: Path, name: str = "nano-python") -> str:
    """Return the status of the run of this name."""
    (status,) = [
        run.info.status for run in mlflow_runs(root) if run.info.run_name == name
    ]
    return str(status)


def test_a_resumed_training_goes_on_with_its_runs(killed_root: Path) -> None:
    """Of the end nobody was told; of the steps some are taken again."""
    root = killed_root
    at_first = record_in(root)
    (first,) = mlflow_runs(root)
    for step in range(9, 11):  # noted, and then the power failed
        at_first.append({"loss": 1 / step, "speed": 10.0}, step=step)
    with (at_first.folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 11, "tim')

    with run_in(root, BOTH) as run:
        while_it_runs = status_in_mlflow(root)
        for step in range(7, 15):
            run.log_metrics({"loss": 2 / step, "speed": 20.0}, step=step)
        run.log_metrics({"parameters": 123.0})

    record = record_in(root)
    expected = rows_of(record)
    assert [row[0] for row in expected[::2]] == list(range(1, 15)), "no gap"
    assert expected[:20] == rows_of(at_first), "what was noted stays"
    assert [row for row in mlflow_rows(root) if row[0]] == expected, "and none twice"
    assert wandb_rows(root) == expected
    assert while_it_runs == "RUNNING"
    (last,) = mlflow_runs(root)
    assert last.info.run_id == first.info.run_id
    assert (last.info.status, record.info.status) == ("FINISHED", "FINISHED")
    assert last.data.metrics["parameters"] == 123.0
    assert last.data.tags["resumed.after"] == "its process is gone"
    opened = wandb_runs(root)
    assert [run.exit_code for run in opened] == [FOLLOWED_TO_DEATH, 0]
    assert opened[-1].run_id == RUN_ID
    assert opened[-1].summary["parameters"] == 123.0
    assert record.is_being_written() is False
    assert record.info.unsynced(["mlflow", "wandb"], len(record.points)) == []


def check_that_it_is_closed(root: Path) -> None:
    """See that all of the killed run is told, and that it was killed."""
    record = record_in(root)
    (run,) = [run for run in mlflow_runs(root) if run.info.run_name == "nano-python"]
    assert (record.info.status, run.info.status) == ("KILLED", "KILLED")
    assert run.data.tags["reason"] == "its process is gone"
    assert run.info.end_time == int(1000 * record.points[-1].time)
    # W&B's process, when it is left alone, may not even write which run it was.
    opened = [run for run in wandb_runs(root) if run.run_id in (RUN_ID, "")]
    assert [run.exit_code for run in opened] == [FOLLOWED_TO_DEATH, 130]
    history = [row for run in opened for row in run.history]
    assert [row["step"] for row in history] == list(range(1, len(history) + 1))
    assert len(history) == len(record.points) >= 6


def test_a_run_whose_process_is_gone_is_closed_by_the_next_training(
    killed_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_in(killed_root, BOTH, run_id="2", name="next") as run:
        closed = status_in_mlflow(killed_root)
        run.log_metrics({"loss": 1.0}, step=1)

    assert closed == "KILLED", "before the next one began"
    assert status_in_mlflow(killed_root, "next") == "FINISHED"
    check_that_it_is_closed(killed_root)
    assert warnings_on(capsys) == []


def test_a_run_whose_process_is_gone_is_closed_on_request(killed_root: Path) -> None:
    told = bring_up_to_date(BOTH, killed_root)
    again = bring_up_to_date(BOTH, killed_root)

    assert (told, again) == (["nano-python"], [])
    check_that_it_is_closed(killed_root)
    assert len(mlflow_rows(killed_root)) == 2 * len(record_in(killed_root).points)


def test_a_run_that_is_alive_in_another_process_is_left_alone(killed: Path) -> None:
    """As it was found by this process, just before the other one was killed."""
    assert (killed / "while-it-ran").read_text() == "[] RUNNING RUNNING 1"


def test_no_file_holds_a_secret_of_the_environment(
    killed_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    with run_in(killed_root, BOTH) as run:
        run.log_metrics({"loss": 1.0}, step=20)
        run.log_directory(PROJECT / "stages", name="model")
    needles = [SECRETS["HF_TOKEN"], SECRETS["WANDB_API_KEY"], "PlantedSecretTwo"]

    files = [path for path in killed_root.rglob("*") if path.is_file()]
    leaks = [
        (path, needle)
        for path in files
        for needle in needles
        if needle.encode() in path.read_bytes()
    ]

    assert leaks == []
    assert len(files) > 20, "there was something to look at"


@pytest.mark.parametrize(
    ("error", "status", "exit_code"),
    [
        (None, "FINISHED", 0),
        (ValueError("it diverged\nin many words"), "FAILED", 1),
        (KeyboardInterrupt(), "KILLED", 130),
        (SystemExit(143), "KILLED", 130),
    ],
)
def test_a_run_ends_as_its_block_does(
    root: Path, error: BaseException | None, status: str, exit_code: int
) -> None:
    seen: BaseException | None = None

    try:
        with run_in(root, BOTH) as run:
            run.log_metrics({"loss": 1.0}, step=1)
            if error is not None:
                raise error
    except BaseException as raised:
        seen = raised

    assert seen is error
    (told,) = mlflow_runs(root)
    info = record_in(root).info
    assert (told.info.status, info.status) == (status, status)
    assert told.info.start_time == int(1000 * info.started)
    assert info.ended is not None
    assert told.info.end_time == int(1000 * info.ended)
    reason = {
        "FINISHED": None,
        "FAILED": "it diverged",
        "KILLED": str(error) or "KeyboardInterrupt",
    }[status]
    assert info.reason == reason
    assert told.data.tags.get("reason") == reason
    (in_wandb,) = wandb_runs(root)
    assert in_wandb.exit_code == exit_code
    assert in_wandb.config.get("reason") == reason


def test_a_failed_run_that_is_resumed_is_not_failed_any_more(tmp_path: Path) -> None:
    for error in (ValueError("no power"), KeyboardInterrupt()):
        with pytest.raises(type(error)), run_in(tmp_path, NOBODY):
            raise error
    with run_in(tmp_path, NOBODY):
        while_it_runs = record_in(tmp_path).info

    info = record_in(tmp_path).info
    assert (while_it_runs.status, while_it_runs.reason) == ("RUNNING", None)
    assert while_it_runs.ended is None
    assert info.metadata["resumed.after"] == "KeyboardInterrupt"
    assert (info.status, info.reason) == ("FINISHED", None)
    assert info.all_metadata["reason"] == "", (
        "what the trackers were told is taken back"
    )


def test_parameters_that_changed_on_the_way_become_facts(tmp_path: Path) -> None:
    """A run has one value of a parameter: the one that it began with."""
    began = {"precision": "32-true", "seed": 7, "paths": [1, 2]}
    for precision in ("32-true", "bf16-mixed", "32-true"):
        with run_in(tmp_path, NOBODY, params=began | {"precision": precision}):
            pass
        info = record_in(tmp_path).info
        assert info.params == began
        assert {
            key: value
            for key, value in info.metadata.items()
            if key.startswith("resumed.") and key != "resumed.after"
        } == (
            {}
            if "resumed.after" not in info.metadata
            else {"resumed.precision": precision}
        )


def test_a_tracker_that_is_muted_on_the_way_is_told_the_rest_later(root: Path) -> None:
    with pytest.raises(KeyboardInterrupt), run_in(root, tracked_by("mlflow")) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        raise KeyboardInterrupt
    with run_in(root, NOBODY) as run:
        run.log_metrics({"loss": 0.5}, step=2)
    muted = mlflow_rows(root)

    told = bring_up_to_date(tracked_by("mlflow"), root)

    assert muted == [(1, "loss", 1.0)]
    assert told == ["nano-python"]
    assert mlflow_rows(root) == [(1, "loss", 1.0), (2, "loss", 0.5)]
    assert status_in_mlflow(root) == "FINISHED"


def test_a_run_that_the_user_deleted_is_not_brought_back(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = tracked_by("mlflow")
    with run_in(root, tracking) as run:
        run.log_metrics({"loss": 1.0}, step=1)
    record = record_in(root)
    record.append({"loss": 0.5}, step=2)  # of which MLflow is to be told
    (run_in_mlflow,) = mlflow_runs(root)
    mlflow_client(root).delete_run(run_in_mlflow.info.run_id)

    told = [bring_up_to_date(tracking, root) for _ in range(2)]

    assert told == [[], []]
    assert mlflow_runs(root) == []
    assert warnings_on(capsys) == []
    assert record_in(root).info.unsynced(["mlflow"], 2) == [], "it is settled"


def test_one_damaged_record_keeps_no_training_from_beginning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_in(tmp_path, NOBODY) as run:
        run.log_metrics({"loss": 1.0}, step=1)
    record = record_in(tmp_path)
    record.update(status="RUNNING")
    (record.folder / "metrics.jsonl").write_text("no point\n")

    with run_in(tmp_path, NOBODY, run_id="2") as run:
        run.log_metrics({"loss": 1.0}, step=1)

    assert record_in(tmp_path, "2").info.status == "FINISHED"
    (warning,) = warnings_on(capsys)
    assert warning.startswith("warning: the training nano-python is left as it is: ")
    assert "metrics.jsonl is damaged" in warning


def test_a_record_of_which_only_the_curves_are_left_is_gone_on_with(
    tmp_path: Path,
) -> None:
    with run_in(tmp_path, NOBODY) as run:
        run.log_metrics({"loss": 1.0}, step=1)
    (runs_folder(tmp_path) / RUN_ID / "run.json").write_text("{")

    with run_in(tmp_path, NOBODY) as run:
        run.log_metrics({"loss": 0.5}, step=2)

    assert rows_of(record_in(tmp_path)) == [(1, "loss", 1.0), (2, "loss", 0.5)]


def test_a_disk_that_is_full_ends_the_training_with_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(ValueError, match="the first error"),
        run_in(tmp_path, NOBODY) as run,
    ):
        assert run.record is not None
        monkeypatch.setattr(run.record, "update", no_space)
        raise ValueError("the first error")

    assert record_in(tmp_path).info.status == "RUNNING", "the next start closes it"
    bring_up_to_date(NOBODY, tmp_path)
    assert record_in(tmp_path).info.status == "KILLED"


def test_one_failing_tracker_does_not_stop_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where MLflow's lock belongs there is a folder."""
    (tmp_path / ".toygpt" / "mlflow.lock").mkdir(parents=True)

    with run_in(tmp_path, BOTH) as run:
        run.log_metrics({"loss": 3.0}, step=1)

    (warning,) = warnings_on(capsys)
    assert warning.startswith("warning: mlflow does not take what it is told: ")
    assert wandb_rows(tmp_path) == [(1, "loss", 3.0)]


def test_of_a_tracker_that_fails_the_user_hears_once_however_many_runs_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: set[str] = set()

    def note_try(info: RunInfo, *arguments: Any) -> MLflowTracker:
        tried.add(info.id)
        return MLflowTracker(info, *arguments)

    monkeypatch.setattr(runs, "MLflowTracker", note_try)
    tracking = tracked_by("mlflow")
    for run_id in ("1", "2", "3"):
        with run_in(tmp_path, NOBODY, run_id=run_id):
            pass
        record_in(tmp_path, run_id).update(trackers=["mlflow"])
    (tmp_path / ".toygpt" / "mlflow.lock").mkdir()

    with run_in(tmp_path, tracking, run_id="4"):
        pass
    at_start = warnings_on(capsys)
    told = bring_up_to_date(tracking, tmp_path)

    assert tried == {"3", "4"}, "it was tried with one of the three"
    assert len(at_start) == 1
    assert told == []
    assert len(warnings_on(capsys)) == 1


def test_several_runs_can_be_open_one_after_another(root: Path) -> None:
    """Each end of a run ends W&B's process; the next one needs another."""
    for run_id in ("1", "2"):
        with run_in(root, NOBODY, run_id=run_id, name=run_id) as run:
            run.log_metrics({"loss": 1.0}, step=1)
        record_in(root, run_id).update(trackers=["mlflow", "wandb"])

    with run_in(root, BOTH, run_id="3", name="3") as run:
        run.log_metrics({"loss": 1.0}, step=1)

    assert sorted(run.info.run_name for run in mlflow_runs(root)) == ["1", "2", "3"]
    runs = wandb_runs(root)
    assert sorted(run.run_id for run in runs) == ["1", "2", "3"]
    assert all(run.exit_code == 0 for run in runs)
    assert all(run.history == [{"loss": 1, "step": 1}] for run in runs)


def test_what_was_lost_is_told_anew(root: Path) -> None:
    """The run has no curve: that it is there at all is to be known as well."""
    with run_in(root, BOTH) as run:
        run.log_metrics({"parameters": 123.0})
    nothing_lost = forget_lost(BOTH, root)
    for path in (root / "mlflow.db", root / "mlartifacts", root / "wandb"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    untouched = bring_up_to_date(BOTH, root)
    give_empty(root)

    lost = forget_lost(BOTH, root)
    told = bring_up_to_date(BOTH, root)

    assert (nothing_lost, untouched) == (set(), [])
    assert (lost, told) == ({RUN_ID}, ["nano-python"])
    (run_in_mlflow,) = mlflow_runs(root)
    assert run_in_mlflow.data.metrics == {"parameters": 123.0}
    assert run_in_mlflow.data.params == {"seed": "7"}
    (run_in_wandb,) = wandb_runs(root)
    assert run_in_wandb.summary["parameters"] == 123.0
    assert run_in_wandb.exit_code == 0


def give_empty(root: Path) -> None:
    """Leave an empty file where the database was, as SQLite does when it looks."""
    (root / "mlflow.db").touch()


def test_without_trackers_the_record_alone_is_kept(tmp_path: Path) -> None:
    with run_in(tmp_path, NOBODY) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        run.log_directory(tmp_path, name="model")

    assert [path.name for path in tmp_path.iterdir()] == [".toygpt"]
    assert rows_of(record_in(tmp_path)) == [(1, "loss", 1.0)]


def test_the_run_of_a_rank_above_zero_logs_nothing(
    tmp_path: Path,
) -> None:
    with null_run() as run:
        run.log_metrics({"loss": 1.0}, step=1)
        run.log_metadata({"a": "b"})
        run.log_directory(tmp_path, name="model")
        run.remember_weights(WEIGHTS)

    assert not list(tmp_path.iterdir())


def test_a_later_stage_goes_on_with_the_run_of_its_model(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "samples.md").write_text("Once")
    with run_in(root, BOTH) as run:
        run.log_metrics({"loss": 3.0}, step=5)
        run.remember_weights(WEIGHTS)
    (trained,) = mlflow_runs(root)

    with run_of_model(WEIGHTS, tracking=BOTH, root=root) as run:
        run.log_metrics({"test_loss": 2.5})
        run.log_directory(tmp_path / "samples", name="samples")

    (judged,) = mlflow_runs(root)
    assert judged.info.run_id == trained.info.run_id
    assert (judged.info.status, judged.info.end_time) == (
        "FINISHED",
        trained.info.end_time,
    )
    assert judged.data.metrics == {"loss": 3.0, "test_loss": 2.5}
    assert judged.data.tags["weights.sha256"] == WEIGHTS
    assert mlflow_files(root, judged) == {"samples/samples.md": "Once"}
    opened = wandb_runs(root)
    assert [run.run_id for run in opened] == [RUN_ID, RUN_ID]
    assert wandb_rows(root) == [(5, "loss", 3.0)]
    assert opened[-1].summary["test_loss"] == 2.5
    assert opened[-1].config["weights.sha256"] == WEIGHTS
    told = record_in(root).info.synced
    assert [told[name].directories for name in ("mlflow", "wandb")] == [["samples"]] * 2


def test_a_later_stage_tells_what_the_training_could_not(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = tracked_by("mlflow")
    (root / ".toygpt" / "mlflow.lock").mkdir(parents=True)
    with run_in(root, tracking) as run:
        run.log_metrics({"loss": 3.0}, step=5)
        run.remember_weights(WEIGHTS)
    (root / ".toygpt" / "mlflow.lock").rmdir()

    with run_of_model(WEIGHTS, tracking=tracking, root=root) as run:
        run.log_metrics({"test_loss": 2.5})

    assert len(warnings_on(capsys)) == 1
    assert mlflow_rows(root) == [(0, "test_loss", 2.5), (5, "loss", 3.0)]
    assert status_in_mlflow(root) == "FINISHED"


def test_a_failing_later_stage_leaves_the_training_finished(tmp_path: Path) -> None:
    with run_in(tmp_path, NOBODY) as run:
        run.remember_weights(WEIGHTS)

    with (
        pytest.raises(ValueError, match="no test split"),
        run_of_model(WEIGHTS, tracking=NOBODY, root=tmp_path),
    ):
        raise ValueError("no test split")

    assert record_in(tmp_path).info.status == "FINISHED"
    assert not record_in(tmp_path).is_being_written()


def test_a_model_that_was_not_trained_here_has_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_of_model(WEIGHTS, tracking=BOTH, root=tmp_path) as run:
        run.log_metrics({"test_loss": 1.0})
        run.log_metadata({"a": "b"})
        run.log_directory(tmp_path, name="samples")

    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


def test_a_tracker_that_did_not_follow_the_training_hears_nothing_later(
    tmp_path: Path,
) -> None:
    with run_in(tmp_path, NOBODY) as run:
        run.remember_weights(WEIGHTS)

    with run_of_model(WEIGHTS, tracking=BOTH, root=tmp_path) as run:
        run.log_metrics({"test_loss": 1.0})

    assert [path.name for path in tmp_path.iterdir()] == [".toygpt"]
    assert record_in(tmp_path).points[-1].metrics == {"test_loss": 1.0}


@pytest.mark.parametrize("file", ["run.json", "metrics.jsonl"])
def test_a_damaged_record_does_not_fail_a_later_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    with run_in(tmp_path, NOBODY) as run:
        run.remember_weights(WEIGHTS)
    (runs_folder(tmp_path) / RUN_ID / file).write_text("{\n")

    with run_of_model(WEIGHTS, tracking=NOBODY, root=tmp_path) as run:
        run.log_metrics({"test_loss": 1.0})

    assert len(warnings_on(capsys)) == (1 if file == "metrics.jsonl" else 0)


def test_a_training_is_tracked_point_by_point(root: Path) -> None:
    tracking = tracked_by("mlflow")
    with run_in(root, tracking) as run:
        curves = Curves(run)
        train(
            tiny_model(),
            predictable_text(1_000),
            predictable_text(1_000),
            params=train_params(),
            runtime=runtime_params(),
            seed=1,
            curves=curves,
        )

    assert len(curves.train) == 10
    rows = mlflow_rows(root)
    for name, points in (
        ("train_loss", curves.train),
        ("validation_loss", curves.validation),
    ):
        assert [(step, value) for step, key, value in rows if key == name] == [
            (int(point["step"]), point["loss"]) for point in points
        ]
    assert all(math.isfinite(value) for _, _, value in rows)
