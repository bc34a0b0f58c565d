"""MLflow shows what the record has, as soon as its database can be written."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    closing,
    contextmanager,
    nullcontext,
)
from pathlib import Path
from typing import Any

import pytest

from tests.faults.audit import audit
from tests.tracking.service import sync_beside
from tests.tracking.trackers import (
    MODEL_FILES,
    RUN_ID,
    WEIGHTS,
    Warned,
    disk_full_after,
    files_of,
    log,
    log_everything,
    logged_models,
    mlflow_client,
    mlflow_files,
    mlflow_runs,
    new_record,
    record_in,
    run_in,
    tracked_by,
)
from toygpt.tracking.mlflow.runs import points_in_mlflow
from toygpt.tracking.mlflow.tracker import MLflowTracker
from toygpt.tracking.points import Point, write_points
from toygpt.tracking.sync import bring_up_to_date

TRACKING = tracked_by("mlflow")

pytestmark = pytest.mark.usefixtures("busy_timeout_is_short")


def test_mlflow_has_everything_that_was_logged(root: Path) -> None:
    log_everything(root, "mlflow")

    (found,) = mlflow_runs(root)
    record = record_in(root)
    assert audit(root) == []
    assert (found.info.run_name, found.info.status) == ("nano-python", "FINISHED")
    assert found.info.start_time == int(1000 * record.info.started)
    assert found.info.end_time == int(1000 * (record.info.ended or 0))
    assert found.data.params == {
        "seed": "7",
        "train.learning_rate": "0.001",
        "max_documents": "None",
    }
    expected = {
        "mood": "good",
        "mlflow.source.git.commit": "c0ffee",
        "toygpt.weights.sha256": WEIGHTS,
        "toygpt.run": RUN_ID,
    }
    assert found.data.tags.items() >= expected.items()
    (model,) = logged_models(root)
    assert mlflow_files(root, found) == {}, "there is one copy of the model"
    assert files_of(model).items() >= MODEL_FILES.items()
    assert record.info.synced["mlflow"].directories == ["model"]


@pytest.mark.parametrize(("wish", "is_wanted"), [("", True), ("False", False)])
def test_system_metrics_can_be_turned_off(
    root: Path, monkeypatch: pytest.MonkeyPatch, wish: str, is_wanted: bool
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", wish)

    mlflow = MLflowTracker(new_record(root).info, TRACKING, root)

    names = {thread.name for thread in threading.enumerate()}
    mlflow.abandon()
    assert ("SystemMetricsMonitor" in names) == is_wanted


def test_mlflow_gets_more_than_it_accepts_at_once(root: Path) -> None:
    params: dict[str, Any] = {f"prompt.{number}": number for number in range(250)}
    params["long"] = "x" * 9999

    with run_in(root, TRACKING, params=params) as run:
        points = [Point(step, 0.0, {"loss": 1.0, "a": 2.0}) for step in range(1, 701)]
        write_points(run.record.folder / "metrics.jsonl", points)
        run.log_metrics({"loss": 0.5}, step=701)

    (found,) = mlflow_runs(root)
    params["long"] = "x" * 6000
    assert found.data.params == {key: str(value) for key, value in params.items()}
    known = points_in_mlflow(run.record.info, TRACKING, root)
    assert known is not None
    assert len(known) == 1401


def test_a_run_that_was_killed_before_its_parameters_were_logged_gets_them(
    root: Path,
) -> None:
    """Even if it was never noted that MLflow has a run of it."""
    with run_in(root, TRACKING, params={"seed": 7}):
        pass
    (before,) = mlflow_runs(root)
    record = record_in(root)
    record.update(params={"seed": 7, "late": 1})
    record.note_synced({})

    bring_up_to_date(TRACKING, root)

    (after,) = mlflow_runs(root)
    assert after.info.run_id == before.info.run_id
    assert after.data.params == {"seed": "7", "late": "1"}


def test_a_run_that_the_user_deleted_is_not_restored(
    root: Path, warned: Warned
) -> None:
    with run_in(root, TRACKING) as run:
        run.log_metrics({"loss": 1.0}, step=1)
    record_in(root).append({"loss": 0.5}, step=2)
    (found,) = mlflow_runs(root)
    mlflow_client(root).delete_run(found.info.run_id)

    synced = bring_up_to_date(TRACKING, root)

    assert (synced, mlflow_runs(root), warned()) == ([], [], [])
    assert record_in(root).unsynced(["mlflow"]) == []


@contextmanager
def locked(root: Path) -> Iterator[None]:
    connection = sqlite3.connect(root / "mlflow.db", isolation_level=None)
    with closing(connection):
        connection.execute("BEGIN EXCLUSIVE")
        yield


@contextmanager
def read_only(root: Path) -> Iterator[None]:
    """Make it so for the superuser as well: SQLite writes no format but 1 and 2."""

    def write_format(number: int) -> None:
        with (root / "mlflow.db").open("r+b") as file:
            file.seek(18)
            file.write(bytes([number]))

    write_format(3)
    yield
    write_format(1)


@contextmanager
def damaged_inside(root: Path) -> Iterator[None]:
    """Overwrite all but the beginning of the database; then put it away."""
    with (root / "mlflow.db").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    yield
    (root / "mlflow.db").rename(root / "damaged.db")


def deleted(root: Path) -> AbstractContextManager[None]:
    (root / "mlflow.db").unlink()
    return nullcontext()


def emptied(root: Path) -> AbstractContextManager[None]:
    """Do as SQLite does that looks for a deleted database."""
    (root / "mlflow.db").unlink()
    (root / "mlflow.db").touch()
    return nullcontext()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (locked, "database is locked"),
        (read_only, "readonly database"),
        (damaged_inside, "malformed"),
        (deleted, "No such file"),
        (emptied, "mlflow.db is empty"),
        (lambda _: disk_full_after(32 * 1024), "disk"),
    ],
)
def test_points_that_the_database_missed_are_synced_when_it_works_again(
    root: Path, warned: Warned, fault: Callable[[Path], Any], message: str
) -> None:
    record = new_record(root, params={"seed": 7}, trackers=["mlflow"])
    warnings: list[str] = []
    with ExitStack() as faulty:

        def begin() -> None:
            assert len(points_in_mlflow(record.info, TRACKING, root) or {}) == 6
            faulty.enter_context(fault(root))
            log(record, 4, 30)

        def end() -> None:
            warnings.extend(warned())
            faulty.close()
            log(record, 30, 33)

        sync_beside(record, TRACKING, root, lambda: log(record, 1, 4), begin, end)

    (warning,) = warnings
    assert warning.startswith("warning: mlflow cannot be synced: ")
    assert message in warning, "the fault fired"
    assert warned() == []
    assert len(record.points) == 32
    assert audit(root) == [], "each point once"
    (found,) = mlflow_runs(root)
    assert found.data.params == {"seed": "7"}
    assert found.data.tags["toygpt.device"] == "abacus"
    assert record_in(root).unsynced(["mlflow"]) == []


def test_the_points_of_a_run_are_looked_up_without_harm(
    root: Path, tmp_path: Path
) -> None:
    with run_in(root, TRACKING) as run:
        run.log_metrics({"loss": 1.0}, step=1)
    info = record_in(root).info
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "mlflow.db").write_bytes(b"no database" * 500)

    assert points_in_mlflow(info, TRACKING, root) == {(1, "loss"): 1.0}
    with pytest.raises(Exception, match="not a database"):
        points_in_mlflow(info, TRACKING, tmp_path / "damaged")
    assert points_in_mlflow(info, TRACKING, tmp_path) is None
    assert not (tmp_path / "mlflow.db").exists()
