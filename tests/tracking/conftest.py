"""What the tests of tracking share: one MLflow database, quick retries, a fake."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tests.project import PATIENCE_SECONDS
from tests.tracking.service import FollowerWithin, Service
from tests.tracking.trackers import Warned, new_record
from toygpt.pipeline.git import git
from toygpt.tracking import connection, run, sync
from toygpt.tracking.mlflow import database
from toygpt.tracking.record import Record


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty database of MLflow, made once: its tables take seconds."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / "mlflow.lock"):
        if not (folder / "mlflow" / "mlflow.db").exists():
            (folder / "mlflow" / ".toygpt").mkdir(parents=True)
            database.configure_mlflow()
            database.create_database(folder / "mlflow")
    return folder / "mlflow" / "mlflow.db"


@pytest.fixture
def root(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project; a database that is created in it is a copy of that one."""

    def copy(path: Path, _: Path) -> None:
        shutil.copy(empty_database, path)

    monkeypatch.setattr(database, "_create_tables", copy)
    monkeypatch.setattr(database, "MAX_BUSY_SECONDS", 0.1)
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry soon and often, and until the retry succeeds."""
    monkeypatch.setattr(connection, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(sync, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(sync, "PATIENCE_AT_END_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(sync, "PATIENCE_WHILE_TRAINING_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(sync, "PATIENCE_WITH_FAILURE_SECONDS", PATIENCE_SECONDS)


@pytest.fixture(autouse=True)
def _one_process(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sync the trackers in the test's own process, unless its file says otherwise."""
    if not getattr(request.module, "HAS_FOLLOWERS", False):
        monkeypatch.setattr(run, "Follower", FollowerWithin)


@pytest.fixture
def gives_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up a failing tracker as soon as the run ends."""
    monkeypatch.setattr(sync, "PATIENCE_WITH_FAILURE_SECONDS", 0.0)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Return the record of a training that has just begun."""
    return new_record(tmp_path)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    """Return a service that works, in MLflow's place."""
    service = Service()
    monkeypatch.setitem(sync.OPEN, "mlflow", service.open)
    return service


@pytest.fixture
def warned(capsys: pytest.CaptureFixture[str]) -> Warned:
    """Return how to get the warnings that our own code has printed."""

    def warned() -> list[str]:
        lines = capsys.readouterr().err.splitlines()
        return [line for line in lines if line.startswith("warning: ")]

    return warned


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a Git repository of an empty commit."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.com")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "first")
    return tmp_path
