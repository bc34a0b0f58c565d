"""An offline run is in one folder of W&B, with each point once."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.audit import audit
from tests.faults.kills import wait_until
from tests.files import write_files
from tests.tracking.trackers import (
    MODEL_FILES,
    end_wandb,
    log,
    new_record,
    record_in,
    run_in,
    tracked_by,
    wandb_command,
)
from toygpt.tracking.record import Record
from toygpt.tracking.sync import bring_up_to_date, sync
from toygpt.tracking.wandb import folders
from toygpt.tracking.wandb.files import files_of_runs, read_runs
from toygpt.tracking.wandb.log import read_records

TRACKING = tracked_by("wandb")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty folder, which `record` fills once for all tests."""
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def record(root: Path, trained: Path) -> Record:
    """Return the record of a training of this project, in an earlier process."""
    if not any(trained.iterdir()):
        train(root)
        end_wandb()
        wait_for_another_second()
        shutil.copytree(root, trained, dirs_exist_ok=True)
    else:
        shutil.copytree(trained, root, dirs_exist_ok=True)
    return record_in(root)


def wait_for_another_second() -> None:
    """Wait until W&B, which names a folder by the second, has another name for it."""
    before = int(time.time())
    wait_until(lambda: int(time.time()) > before)


def train(root: Path) -> None:
    """Train a model, with an interruption: the run is opened twice."""
    model = root.with_name("model")
    write_files(model, MODEL_FILES)
    with pytest.raises(KeyboardInterrupt), run_in(root, TRACKING) as run:
        log(run.record, 1, 4)
        raise KeyboardInterrupt
    wait_for_another_second()
    with run_in(root, TRACKING) as run:
        log(run.record, 4, 6)
        run.log_directory(model, name="model")


def evaluate(record: Record, root: Path) -> None:
    record.append({"test_loss": 1.5}, step=None)
    sync(record, TRACKING, root)


def own_steps(root: Path) -> list[int]:
    """Return W&B's own count of the points in its files."""
    rows = [
        {item.nested_key[0]: item.value_json for item in record.history.item}
        for log in files_of_runs(root)
        for record in read_records(log)
        if record.WhichOneof("record_type") == "history"
    ]
    return [int(row["_step"]) for row in rows]


@pytest.mark.slow
def test_a_run_of_several_stages_is_in_one_folder_and_wandb_shows_its_curves(
    root: Path, record: Record
) -> None:
    evaluate(record, root)

    (folder,) = root.glob("wandb/*run-*")
    assert audit(root) == []
    assert own_steps(root) == [0, 1, 2, 3, 4]
    (found,) = read_runs(root)
    assert list(found.artifacts.values()) == ["model"]
    assert found.summary.items() >= {"loss": 1 / 5, "test_loss": 1.5}.items()
    assert "Would sync 1 run(s)" in wandb_command(root, "sync", "--dry-run")
    shown = json.loads(wandb_command(root, "leet", "inspect", "--summary", "--json"))
    assert folder.name in json.dumps(shown)
    assert shown["summary"].items() >= {"loss": 1 / 5, "test_loss": 1.5}.items()


@pytest.mark.slow
@pytest.mark.usefixtures("gives_up_soon")
@pytest.mark.parametrize(
    "step", ["files_of_runs", "write_records", "_put_aside", "_remove"]
)
def test_a_process_that_is_killed_while_it_joins_folders_costs_nothing(
    root: Path, record: Record, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The step is the last that it takes."""
    real = getattr(folders, step)

    def die(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(folders, step, die)
        evaluate(record, root)
    end_wandb()
    assert record_in(root).unsynced(["wandb"]) == ["wandb"], "the fault fired"

    assert bring_up_to_date(TRACKING, root) == ["nano-python"]

    assert audit(root) == []
    assert len(list(root.glob("wandb/*run-*"))) == 1


@pytest.mark.slow
def test_what_wandb_has_uploaded_stays_and_is_not_logged_again(
    root: Path, record: Record
) -> None:
    (log_file,) = files_of_runs(root)
    before = log_file.read_bytes()
    log_file.with_name(f"{log_file.name}.synced").touch()

    evaluate(record, root)
    wait_for_another_second()
    evaluate(record, root)

    first, second = read_runs(root)
    assert log_file.read_bytes() == before
    assert (len(first.history), second.history) == (5, [])
    assert second.summary["test_loss"] == 1.5
    assert audit(root) == []


def test_runs_do_not_join_each_other(root: Path) -> None:
    for run_id in ("1", "2"):
        record = new_record(root, run_id, trackers=["wandb"])
        record.update(status="FINISHED", ended=record.info.started)
    bring_up_to_date(TRACKING, root)

    folders.join_folders(root, "1")

    assert sorted(run.run_id for run in read_runs(root)) == ["1", "2"]
