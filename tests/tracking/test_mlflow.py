"""MLflow shows what the record has, as soon as its database can be written."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    closing,
    contextmanager,
    nullcontext,
    suppress,
)
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from tests.faults.kills import wait_until
from tests.tracking.trackers import (
    MODEL_FILES,
    RUN_ID,
    WEIGHTS,
    Warned,
    disk_full_after,
    log,
    log_everything,
    mlflow_client,
    mlflow_files,
    mlflow_rows,
    mlflow_runs,
    read_only,
    record_in,
    rows_of,
    run_in,
    tracked_by,
)
from toygpt.tracking.mlflow import points_in_mlflow
from toygpt.tracking.points import Point
from toygpt.tracking.sync import bring_up_to_date

TRACKING = tracked_by("mlflow")

pytestmark = pytest.mark.usefixtures("busy_timeout_is_short")


def wait_for_points(root: Path, num_points: int) -> None:
    """Return when MLflow has them."""

    def has_them() -> bool:
        with suppress(MlflowException):  # busy with the sync worker
            return len(mlflow_rows(root)) == 2 * num_points
        return False

    wait_until(has_them)


def test_mlflow_has_everything_that_was_logged(root: Path) -> None:
    log_everything(root, "mlflow")

    (found,) = mlflow_runs(root)
    record = record_in(root)
    assert (found.info.run_name, found.info.status) == ("nano-python", "FINISHED")
    assert found.info.start_time == int(1000 * record.info.started)
    assert found.info.end_time == int(1000 * (record.info.ended or 0))
    assert found.data.params == {
        "seed": "7",
        "train.learning_rate": "0.001",
        "max_documents": "None",
    }
    tags = found.data.tags
    assert tags["mood"] == "good"
    assert tags["mlflow.source.git.commit"] == "c0ffee"
    assert tags["weights.sha256"] == WEIGHTS
    assert tags["toygpt.run"] == RUN_ID
    assert mlflow_rows(root) == [
        (0, "parameters", 123.0),
        (5, "loss", 3.0),
        (5, "speed", 10.0),
        (10, "loss", 2.0),
    ]
    files = {f"model/{name}": text for name, text in MODEL_FILES.items()}
    assert mlflow_files(root, found) == files
    assert record.info.synced["mlflow"].directories == ["model"]


def test_mlflow_gets_more_than_it_accepts_at_once(root: Path) -> None:
    params: dict[str, Any] = {f"prompt.{number}": number for number in range(250)}
    params["long"] = "x" * 9999

    with run_in(root, TRACKING, params=params) as run:
        run.record.points += [
            Point(step, 0.0, {"loss": 1.0, "speed": 2.0}) for step in range(1, 701)
        ]
        run.log_metrics({"loss": 0.5}, step=701)

    (found,) = mlflow_runs(root)
    assert found.data.params == {
        key: str(value)[:6000] for key, value in params.items()
    }
    assert len(mlflow_rows(root)) == 1401


def test_a_run_that_was_killed_before_its_parameters_were_logged_gets_them(
    root: Path,
) -> None:
    """Even if it was never noted that MLflow has a run of it."""
    with run_in(root, TRACKING, params={"seed": 7}):
        pass
    (before,) = mlflow_runs(root)
    record_in(root).update(params={"seed": 7, "late": 1}, synced={})

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
    """Lock the database by another connection."""
    connection = sqlite3.connect(root / "mlflow.db", isolation_level=None)
    with closing(connection):
        connection.execute("BEGIN EXCLUSIVE")
        yield


@contextmanager
def overwritten(root: Path, *, from_byte: int) -> Iterator[None]:
    """Overwrite the database from a byte on; then put it away."""
    with (root / "mlflow.db").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(from_byte)
        file.write(b"\xff" * (size - from_byte))
    yield
    (root / "mlflow.db").rename(root / "damaged.db")


def deleted(root: Path, *, recreated: bool) -> AbstractContextManager[None]:
    """Delete the database; SQLite that looks for one creates an empty file."""
    (root / "mlflow.db").unlink()
    if recreated:
        (root / "mlflow.db").touch()
    return nullcontext()


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "locked": (locked, "database is locked"),
    "read-only": (lambda root: read_only(root / "mlflow.db"), "readonly database"),
    "damaged": (partial(overwritten, from_byte=0), "file is not a database"),
    "damaged inside": (partial(overwritten, from_byte=4096), "malformed"),
    "deleted": (partial(deleted, recreated=False), "No such file"),
    "emptied": (partial(deleted, recreated=True), "mlflow.db is empty"),
    "full": (lambda _: disk_full_after(32 * 1024), "disk"),
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=FAULTS)
def test_points_that_the_database_missed_are_synced_when_it_works_again(
    root: Path, warned: Warned, fault: Callable[[Path], Any], message: str
) -> None:
    with run_in(root, TRACKING) as run:
        log(run, range(1, 4))
        wait_for_points(root, 3)
        with fault(root):
            log(run, range(4, 30))
            (warning,) = wait_until(lambda: warned())
            log(run, range(30, 33))
        log(run, range(33, 36))
        wait_for_points(root, 35)

    assert warning.startswith("warning: mlflow cannot be synced: ")
    assert message in warning, "the fault fired"
    assert warned() == []
    expected = rows_of(record_in(root))
    assert len(expected) == 2 * 35
    assert mlflow_rows(root) == expected, "each point once"
    (found,) = mlflow_runs(root)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "nano-python")
    assert found.data.params == {"seed": "7"}
    assert found.data.tags["device"] == "abacus"
    assert record_in(root).unsynced(["mlflow"]) == []


def test_the_points_of_a_run_are_looked_up_without_harm(
    root: Path, tmp_path: Path
) -> None:
    with run_in(root, TRACKING) as run:
        run.log_metrics({"loss": 1.0}, step=1)
    info = record_in(root).info
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "mlflow.db").write_bytes(b"no database" * 500)

    assert points_in_mlflow(info, root) == {(1, "loss"): 1.0}
    assert points_in_mlflow(info, tmp_path / "damaged") is None
    assert points_in_mlflow(info, tmp_path) is None
    assert not (tmp_path / "mlflow.db").exists()
