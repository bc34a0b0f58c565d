"""W&B shows what the record has, even if W&B's own process dies meanwhile."""

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.faults.audit import audit
from tests.faults.kills import wait_until
from tests.files import files_in, write_files
from tests.tracking.service import sync_beside
from tests.tracking.trackers import (
    MODEL_FILES,
    RUN_ID,
    WEIGHTS,
    Warned,
    log,
    log_everything,
    new_record,
    record_in,
    run_in,
    tracked_by,
    wandb_killer,
    wandb_records,
)
from toygpt.tracking.backfill import forget_lost
from toygpt.tracking.settings import with_environment
from toygpt.tracking.sync import bring_up_to_date
from toygpt.tracking.wandb import tracker as wandb_tracker
from toygpt.tracking.wandb.files import read_runs
from toygpt.tracking.wandb.tracker import points_in_wandb

TRACKING = tracked_by("wandb")
PARAMS = {"seed": 7, "train.learning_rate": 1e-3, "max_documents": None}


def warning_of(warned: Warned) -> str:
    (warning,) = warned()
    assert warning.startswith("warning: wandb cannot be synced: ")
    return warning


def check_that_it_is_synced(root: Path) -> None:
    """Check that W&B has each point once, and the run's end."""
    assert audit(root) == []
    assert read_runs(root)[-1].config == {"seed": 7, "device": "abacus"}
    assert record_in(root).unsynced(["wandb"]) == []


def test_wandb_has_everything_that_was_logged_and_only_in_the_project(
    root: Path, tmp_path: Path
) -> None:
    log_everything(root, "wandb")

    (found,) = read_runs(root)
    (run,) = wandb_records(root, "run")
    (artifact,) = wandb_records(root, "artifact")
    assert (run.run_id, run.project, run.display_name) == (RUN_ID, "toy", "nano-python")
    assert run.tags == ["mood: good"]
    assert found.config == {
        **PARAMS,
        "git.commit": "c0ffee",
        "weights.sha256": WEIGHTS,
    }
    assert found.history == [
        {"loss": 3.0, "speed": 10.0, "step": 5},
        {"loss": 2.0, "step": 10},
    ]
    assert audit(root) == []
    assert found.artifacts == {"toygpt": "model"}
    assert set(artifact.aliases) == {"latest", "nano-python"}
    metadata = {"weights.sha256": WEIGHTS, "parameters": 123.0, "params": PARAMS}
    assert json.loads(artifact.metadata) == metadata
    assert {entry.path for entry in artifact.manifest.contents} == set(MODEL_FILES)
    info = record_in(root).info
    assert info.synced["wandb"].directories == ["model"]
    known = points_in_wandb(info, root) or {}
    assert known.items() >= {(5, "loss"): 3.0, (10, "loss"): 2.0}.items()
    assert {path.name for path in root.iterdir()} == {"wandb", ".toygpt"}
    assert not list((tmp_path / "home").iterdir())
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.slow
def test_online_without_a_key_is_offline_with_one_warning_however_many_runs(
    root: Path, warned: Warned
) -> None:
    """Each end of a run ends W&B's process; the next run needs another."""
    tracking = tracked_by(wandb="online")

    with run_in(root, tracking, run_id="1") as run:
        run.log_metrics({"loss": 3.0}, step=5)
    with pytest.raises(ValueError), run_in(root, tracking, run_id="2") as run:
        run.log_metrics({"loss": 3.0}, step=5)
        raise ValueError("it diverged")

    (warning,) = warned()
    assert warning.startswith("warning: wandb has no API key and keeps the run offline")
    found = read_runs(root)
    assert [(run.run_id, run.exit_code) for run in found] == [("1", 0), ("2", 1)]
    assert all(run.history == [{"loss": 3.0, "step": 5}] for run in found)
    assert found[1].config["reason"] == "it diverged"


def kill_wandb(_: Path) -> None:
    wandb_killer()()


def delete_folder(root: Path) -> None:
    """Delete the folder of the run, as soon as it has its file."""
    wait_until(lambda: list((root / "wandb").glob("*run-*/*.wandb")))
    # In one step: W&B's process may be creating files in it.
    shutil.rmtree((root / "wandb").rename(root / "deleted"))


@pytest.mark.slow
@pytest.mark.parametrize("fault", [kill_wandb, delete_folder])
def test_points_that_wandb_lost_are_synced_again(
    root: Path, warned: Warned, fault: Callable[[Path], None]
) -> None:
    record = new_record(root, params={"seed": 7}, tags={}, trackers=["wandb"])

    def lose() -> None:
        fault(root)
        log(record, 4, 9)
        record.append({"parameters": 123.0}, step=None)

    sync_beside(record, TRACKING, root, lambda: log(record, 1, 4), lose)

    warning_of(warned)
    check_that_it_is_synced(root)


@pytest.mark.slow
def test_a_run_that_its_process_lost_at_the_end_is_synced_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, warned: Warned
) -> None:
    """Nothing of it is on the disk yet, and there is no curve to miss."""
    real_close = wandb_tracker.WandbTracker.close

    def close(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(wandb_tracker.WandbTracker, "close", real_close)
        kill_wandb(root)
        real_close(*args, **kwargs)

    monkeypatch.setattr(wandb_tracker.WandbTracker, "close", close)

    with run_in(root, TRACKING) as run:
        run.log_metrics({"parameters": 123.0})

    warning_of(warned)
    check_that_it_is_synced(root)


@pytest.mark.usefixtures("gives_up_soon")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        # W&B would write to the temporary folder.
        (patch("os.access", return_value=False), "cannot be written"),
        (patch.dict(sys.modules, wandb=None), "wandb"),
    ],
)
def test_a_run_that_wandb_could_not_have_is_synced_later(
    root: Path, warned: Warned, fault: AbstractContextManager[Any], message: str
) -> None:
    with fault, run_in(root, TRACKING) as run:
        log(run.record, 1, 4)
        run.log_metrics({"parameters": 123.0})
    warning = warning_of(warned)
    assert points_in_wandb(record_in(root).info, root) is None

    synced = bring_up_to_date(TRACKING, root)

    assert message in warning, "the fault fired"
    assert synced == ["nano-python"]
    check_that_it_is_synced(root)


# What a user may set, and what W&B has then.
VARIABLES = {
    "WANDB_ENTITY": "team",
    "WANDB_PROJECT": "theirs",
    "WANDB_NAME": "by hand",
    "WANDB_RUN_GROUP": "ablation",
    "WANDB_JOB_TYPE": "train",
    "WANDB_NOTES": "a note, with a comma",
    "WANDB_TAGS": "one, two",
    "WANDB_DIR": "somewhere",
    "WANDB_RUN_ID": "agent7",
    "WANDB_SWEEP_ID": "sweep3",
}
AS_SET = {
    "run_id": "agent7",
    "entity": "team",
    "project": "theirs",
    "display_name": "by hand",
    "run_group": "ablation",
    "job_type": "train",
    "notes": "a note, with a comma",
    "sweep_id": "sweep3",
    "tags": ["one", "two"],
}


@pytest.mark.slow
def test_the_environment_comes_first_and_the_run_stays_where_it_began(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later stages, and `python . track`, may run in another shell."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    with run_in(root, tracked_by("wandb", entity="me", group="a", notes="b")) as run:
        run.log_metrics({"loss": 3.0}, step=5)
    for name in VARIABLES:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    run.record.append({"test_loss": 1.5}, step=None)

    synced = bring_up_to_date(TRACKING, root)

    assert synced == ["nano-python"]
    (run,) = wandb_records(root / "somewhere", "run")
    (found,) = read_runs(root / "somewhere")
    assert {name: getattr(run, name) for name in AS_SET} == AS_SET
    assert found.config == {"seed": 7, "device": "abacus"}
    assert found.history == [{"loss": 3.0, "step": 5}]
    assert (found.summary["test_loss"], found.exit_code) == (1.5, 0)
    assert read_runs(root) == []
    forget_lost(TRACKING, root)
    assert record_in(root).unsynced(["wandb"]) == [], "nothing of it was lost"


@pytest.mark.parametrize("variable", ["WANDB_MODE=disabled", "WANDB_DISABLED=true"])
def test_disabled_writes_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    name, _, value = variable.partition("=")
    monkeypatch.setenv(name, value)

    with run_in(root, with_environment(TRACKING)) as run:
        run.log_metrics({"loss": 3.0}, step=5)
    monkeypatch.delenv(name)

    assert bring_up_to_date(with_environment(TRACKING), root) == []
    assert files_in(root).keys() == {
        f".toygpt/runs/{RUN_ID}/{file}"
        for file in ("run.json", "metrics.jsonl", "lock")
    } | {".toygpt/wandb.lock"}


def test_an_artifact_has_a_name_that_wandb_accepts(root: Path) -> None:
    params = {"corpus": "mine/ünd: 1", "model": "nano"}
    model = root.with_name("model")
    write_files(model, MODEL_FILES)

    with run_in(root, TRACKING, params=params, name="a: b/c") as run:
        run.log_directory(model, name="model")
        run.log_directory(model, name="samples")

    (found,) = read_runs(root)
    assert sorted(found.artifacts) == [
        "toygpt-mine-nd-1-nano",
        "toygpt-mine-nd-1-nano-samples",
    ]
    assert all("a-b-c" in it.aliases for it in wandb_records(root, "artifact"))
    assert record_in(root).info.synced["wandb"].directories == ["model", "samples"]


def test_a_copy_that_an_earlier_version_named_after_the_run_is_known(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_tracker, "_artifact_name", lambda *_: f"model-{RUN_ID}")
    log_everything(root, "wandb")
    monkeypatch.undo()

    run = record_in(root)
    run.append({"test_loss": 1.5}, step=None)
    bring_up_to_date(TRACKING, root)

    assert record_in(root).info.synced["wandb"].directories == ["model"]
