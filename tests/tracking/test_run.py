"""A training has one run, however it ends and however often it is resumed."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest

from tests.faults.audit import audit
from tests.files import digests_in, write_files
from tests.tracking.service import Service
from tests.tracking.trackers import (
    MODEL_FILES,
    RUN_ID,
    WEIGHTS,
    Warned,
    files_of,
    logged_models,
    record_in,
    run_in,
    tracked_by,
)
from toygpt.tracking import run as run_module
from toygpt.tracking.points import read_new_points
from toygpt.tracking.record import Record
from toygpt.tracking.run import run_of_model
from toygpt.tracking.run_info import RunInfo, runs_folder, write_info
from toygpt.tracking.sync import bring_up_to_date
from toygpt.tracking.wandb.settings import settings_of_training

NONE = tracked_by()
MLFLOW = tracked_by("mlflow")
BOTH = tracked_by("mlflow", "wandb")


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (None, "FINISHED", None),
        (ValueError("it diverged\nin many words"), "FAILED", "it diverged"),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
        (SystemExit(143), "KILLED", "143"),
    ],
)
def test_a_run_ends_as_its_block_does(
    tmp_path: Path,
    service: Service,
    error: BaseException | None,
    status: str,
    reason: str | None,
) -> None:
    ends = pytest.raises(type(error)) if error else nullcontext()
    with ends, run_in(tmp_path, MLFLOW) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        if error is not None:
            raise error

    info = record_in(tmp_path).info
    assert service.statuses == [info.status] == [status]
    assert service.points == [(1, "loss", 1.0)]
    assert info.ended is not None
    assert info.started <= info.ended <= time.time()
    assert info.reason == service.metadata[-1].get("reason") == reason


def test_a_failed_run_that_is_resumed_is_not_failed_any_more(
    tmp_path: Path, service: Service
) -> None:
    for error in (ValueError("no power"), KeyboardInterrupt()):
        with pytest.raises(type(error)), run_in(tmp_path, MLFLOW):
            raise error
    with run_in(tmp_path, MLFLOW, name="renamed"):
        meanwhile = record_in(tmp_path).info

    info = record_in(tmp_path).info
    assert (meanwhile.status, meanwhile.reason) == ("RUNNING", None)
    assert (meanwhile.ended, meanwhile.name) == (None, "renamed")
    assert info.metadata["resumed.after"] == "KeyboardInterrupt"
    assert (info.status, info.reason) == ("FINISHED", None)
    assert service.metadata[-1]["reason"] == "", "the trackers had one"


def test_parameters_that_changed_on_the_way_become_metadata(tmp_path: Path) -> None:
    """A run has one value of a parameter: the one that it began with."""
    began = {"precision": "32-true", "seed": 7, "paths": [1, 2]}
    found = []
    for precision in ("32-true", "bf16-mixed", "32-true"):
        with run_in(tmp_path, NONE, params=began | {"precision": precision}):
            pass
        info = record_in(tmp_path).info
        assert info.params == began
        assert not info.metadata.keys() & {"resumed.seed", "resumed.paths"}
        found.append(info.metadata.get("resumed.precision"))

    assert found == [None, "bf16-mixed", "32-true"]


@pytest.mark.slow
def test_a_model_of_links_into_a_shared_cache_is_copied_and_the_cache_left_as_it_was(
    root: Path,
) -> None:
    """DVC makes such links; in the cache each file is read-only."""
    cache, model = root.with_name("cache"), root.with_name("model")
    write_files(cache, MODEL_FILES)
    for name in MODEL_FILES:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).symlink_to(cache / name)
        (cache / name).chmod(0o444)
    before = digests_in(cache)

    with run_in(root, BOTH) as run:
        run.log_directory(model, name="model")

    assert audit(root) == []
    (copy,) = logged_models(root)
    assert files_of(copy).items() >= MODEL_FILES.items()
    assert not [it for it in root.glob("mlartifacts/**/*") if it.is_symlink()]
    assert digests_in(cache) == before
    assert {(cache / name).stat().st_mode & 0o777 for name in MODEL_FILES} == {0o444}


def test_a_record_of_which_only_the_curves_are_left_is_continued(
    tmp_path: Path,
) -> None:
    for step in (1, 2):
        with run_in(tmp_path, NONE) as run:
            run.log_metrics({"loss": 1 / step}, step=step)
        (runs_folder(tmp_path) / RUN_ID / "run.json").write_text("{")

    points, _ = read_new_points(runs_folder(tmp_path) / RUN_ID / "metrics.jsonl", 0)
    assert [point.step for point in points] == [1, 2]


def test_on_a_full_disk_there_is_room_for_how_the_training_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training itself may have filled it."""

    def write(folder: Path, info: RunInfo) -> None:
        if (reserve := folder / "reserve").exists():
            assert reserve.stat().st_blocks * 512 >= 2**16
            raise OSError(28, "No space left on device")
        write_info(folder, info)

    with pytest.raises(OSError, match="No space"), run_in(tmp_path, NONE) as run:
        monkeypatch.setattr("toygpt.tracking.record.write_info", write)
        run.log_metadata({"key": "value"})

    info = record_in(tmp_path).info
    assert (info.status, info.reason) == (
        "FAILED",
        "[Errno 28] No space left on device",
    )
    assert not (runs_folder(tmp_path) / RUN_ID / "reserve").exists()


def test_a_full_disk_ends_the_training_with_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_space = OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="the first"), run_in(tmp_path, NONE) as run:
        monkeypatch.setattr(run.record, "update", Mock(side_effect=no_space))
        raise ValueError("the first error")

    assert record_in(tmp_path).info.status == "RUNNING", "the next start ends it"
    bring_up_to_date(NONE, tmp_path)
    assert record_in(tmp_path).info.status == "KILLED"


def test_of_two_trainings_that_start_together_one_has_the_id_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: Warned
) -> None:
    def choose_slowly(*arguments: Any) -> dict[str, str]:
        settings = settings_of_training(*arguments)
        time.sleep(0.2)  # the other one chooses meanwhile, or waits
        return settings

    def train(run_id: str) -> str | None:
        with run_in(tmp_path, tracked_by("wandb"), run_id=run_id):
            return record_in(tmp_path, run_id).info.metadata.get("wandb.run_id")

    monkeypatch.setenv("WANDB_RUN_ID", "agent7")
    monkeypatch.setattr(run_module, "settings_of_training", choose_slowly)
    monkeypatch.setattr(run_module, "Follower", MagicMock())
    with ThreadPoolExecutor() as pool:
        ids = set(pool.map(train, ["1", "2"]))

    assert ids == {"agent7", None}
    assert len(warned()) == 1


def test_a_model_that_was_trained_elsewhere_has_no_run(
    tmp_path: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_of_model(WEIGHTS, tracking=MLFLOW, root=tmp_path) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        run.log_directory(tmp_path, name="model")

    assert not list(tmp_path.iterdir())
    assert service.opened == []
    assert capsys.readouterr() == ("", "")


def test_a_later_stage_continues_the_run_of_its_model(
    tmp_path: Path, service: Service
) -> None:
    with run_in(tmp_path, MLFLOW) as run:
        run.log_metrics({"loss": 3.0}, step=5)
        run.remember_weights(WEIGHTS)
    ended = record_in(tmp_path).info.ended

    with run_of_model(WEIGHTS, tracking=MLFLOW, root=tmp_path) as run:
        run.log_metrics({"test_loss": 2.5})
        run.log_directory(tmp_path, name="samples")

    info = record_in(tmp_path).info
    assert service.opened == [RUN_ID, RUN_ID]
    assert service.points == [(5, "loss", 3.0), (None, "test_loss", 2.5)]
    assert service.metadata[-1]["weights.sha256"] == WEIGHTS
    assert service.statuses == ["FINISHED", "FINISHED"]
    assert (info.status, info.ended) == ("FINISHED", ended)
    assert info.synced["mlflow"].directories == ["samples"]


@pytest.fixture
def trained(tmp_path: Path) -> Record:
    """Return the record of a training that had no tracker."""
    with run_in(tmp_path, NONE) as run:
        run.remember_weights(WEIGHTS)
    return record_in(tmp_path)


def test_a_failing_later_stage_leaves_the_training_finished(
    tmp_path: Path, service: Service, trained: Record
) -> None:
    """A tracker that the training did not have gets nothing later."""
    with (
        pytest.raises(ValueError, match="no test split"),
        run_of_model(WEIGHTS, tracking=MLFLOW, root=tmp_path) as run,
    ):
        run.log_metrics({"test_loss": 1.0})
        raise ValueError("no test split")

    record = record_in(tmp_path)
    assert record.info.status == "FINISHED"
    assert record.points[-1].metrics == {"test_loss": 1.0}
    assert service.opened == []
    assert not trained.writer()


@pytest.mark.parametrize(("file", "num"), [("run.json", 0), ("metrics.jsonl", 1)])
def test_a_damaged_record_does_not_fail_a_later_stage(
    tmp_path: Path, trained: Record, warned: Warned, file: str, num: int
) -> None:
    (trained.folder / file).write_text("{\n")

    with run_of_model(WEIGHTS, tracking=NONE, root=tmp_path) as run:
        run.log_metrics({"test_loss": 1.0})

    assert len(warned()) == num
