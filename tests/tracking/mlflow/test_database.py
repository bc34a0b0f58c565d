"""MLflow's database appears whole, even if two processes ask for it at once."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.tracking.trackers import mlflow_runs, new_record, tracked_by
from toygpt.tracking.mlflow import database
from toygpt.tracking.mlflow.database import create_database, database_uri
from toygpt.tracking.mlflow.tracker import MLflowTracker


def test_two_first_runs_at_once_share_one_database(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first but for one that was killed before its database was finished."""
    unfinished = root / ".toygpt" / "mlflow.db.new"
    unfinished.parent.mkdir()
    unfinished.write_bytes(b"SQLite format 3\0 and no more")
    create_tables = database._create_tables
    created: list[Path] = []

    def create_slowly(path: Path, root: Path) -> None:
        assert not path.exists()
        created.append(path)
        time.sleep(0.1)
        create_tables(path, root)

    monkeypatch.setattr(database, "_create_tables", create_slowly)

    def train(name: str) -> None:
        info = new_record(root, name, name=name).info
        MLflowTracker(info, tracked_by("mlflow"), root).close("FINISHED", ended=1.0)

    with ThreadPoolExecutor() as threads:
        list(threads.map(train, ["one", "two"]))  # raises what they raised

    runs = mlflow_runs(root)
    assert created == [unfinished]
    assert sorted(run.info.run_name for run in runs) == ["one", "two"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert capsys.readouterr().err == ""


def test_a_damaged_database_is_named_at_once(root: Path) -> None:
    (root / "mlflow.db").write_bytes(b"no database" * 500)

    with pytest.raises(OSError, match=r"mlflow\.db is damaged"):
        create_database(root)

    assert (root / "mlflow.db").read_bytes() == b"no database" * 500


def test_remains_of_a_deleted_database_do_not_spoil_the_next(root: Path) -> None:
    (root / ".toygpt").mkdir()
    for suffix in ("journal", "wal", "shm"):
        (root / f"mlflow.db-{suffix}").write_bytes(b"of another database")

    create_database(root)

    assert [path.name for path in root.glob("mlflow.db*")] == ["mlflow.db"]


def test_a_path_that_no_database_can_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="needs a path in UTF-8"):
        database_uri(tmp_path / "caf\udce9" / "mlflow.db")
