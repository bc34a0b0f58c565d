"""Real stages log to a team's MLflow server, wherever DVC runs them."""

import sys
import time
from pathlib import Path

import pytest

from tests.faults.kills import wait_until
from tests.project import Workspace
from tests.tracking.mlflow.server import Proxy, Server, audit_at, running_server
from tests.tracking.service import StageWithin
from tests.tracking.trackers import log, new_record, record_in, run_in, tracked_by
from toygpt.tracking import sync
from toygpt.tracking.record import Record, new_run_id
from toygpt.tracking.run_info import all_infos

HAS_FOLLOWERS = True  # see conftest.py

pytestmark = pytest.mark.slow


@pytest.fixture
def at_server(project: Workspace, server: Server) -> Workspace:
    """Return the built project, whose user has a server from now on."""
    project.set_params({"tracking.wandb": "disabled"})
    project.commit("no W&B")
    project.environment["MLFLOW_TRACKING_URI"] = server.address
    return project


def runs_of(workspace: Workspace) -> dict[str, Record]:
    """Return the record of each experiment, by its name."""
    records = (Record(folder) for folder, _ in all_infos(workspace.root))
    return {record.info.name: record for record in records}


def test_experiments_everywhere_log_to_the_server(
    at_server: Workspace, server: Server
) -> None:
    """In the workspace, in a temporary folder, and in the queue."""
    at_server.environment["MLFLOW_EXPERIMENT_NAME"] = "team"
    run = ("exp", "run", "-S", "train.optimizer=adamw", "-S")
    at_server.dvc(*run, "train.learning_rate=1e-3", "-n", "in-the-workspace")
    at_server.dvc(*run, "train.learning_rate=2e-3", "-n", "aside", "--temp", "train")
    at_server.dvc(*run, "train.learning_rate=3e-3", "-n", "queued", "--queue", "train")
    try:
        at_server.dvc("queue", "start")
        wait_until(lambda: "Running" not in (table := queue_of(at_server)) and table)
    finally:
        at_server.dvc("queue", "stop", "--kill", check=False)

    runs = runs_of(at_server)
    destination = f"mlflow:{server.address}"
    copied = {name: ["model"] for name in ("aside", "queued")}
    for name, directories in (
        {"in-the-workspace": ["evaluation", "model", "samples"]} | copied
    ).items():
        assert audit_at(server, runs[name]) == []
        assert runs[name].info.synced[destination].directories == directories
        assert list(runs[name].info.synced) == [destination]
    assert len(runs) == 4, "with that of the built project"
    assert "team" in server.experiment_names().values()


def queue_of(workspace: Workspace) -> str:
    table = workspace.dvc("queue", "status").stdout
    assert "Failed" not in table, table
    return "" if "Queued" in table else table


def test_an_address_of_another_kind_ends_training_before_it_begins(
    at_server: Workspace,
) -> None:
    at_server.environment["MLFLOW_TRACKING_URI"] = "ftp://example.com"
    before = {path: path.stat().st_mtime_ns for path in at_server.root.rglob("*")}

    done = at_server.run(sys.executable, "-m", "stages.train", check=False)

    assert done.returncode == 1
    (error,) = done.stderr.splitlines()
    assert error.startswith("error: the variable MLFLOW_TRACKING_URI: got 'ftp://exa")
    after = {path: path.stat().st_mtime_ns for path in at_server.root.rglob("*")}
    assert {path for path in before | after if before.get(path) != after.get(path)} <= {
        at_server.root / ".toygpt"
    }


def test_a_user_with_a_password_is_let_in_and_no_other(
    tmp_path: Path,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The user is warned once, without the password; the rest arrives later."""
    pytest.importorskip("flask_wtf", reason="the server needs it for its passwords")
    (tmp_path / "server").mkdir()
    basic_auth = ("--app-name", "basic-auth")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    for folder in ("server", "project"):
        (tmp_path / folder).mkdir(exist_ok=True)
    with running_server(
        tmp_path / "server",
        empty_database,
        *basic_auth,
        MLFLOW_FLASK_SERVER_SECRET_KEY="of-the-server",
        MLFLOW_AUTH_ADMIN_PASSWORD="planted-and-right",
    ) as server:
        tracking = tracked_by("mlflow", mlflow=server.address)
        for password in ("planted-and-wrong", "planted-and-right"):
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
            run_id = new_run_id()
            with run_in(tmp_path / "project", tracking, run_id=run_id) as run:
                log(run.record, 1, 4)

        records = [Record(folder) for folder, _ in all_infos(tmp_path / "project")]
        assert [audit_at(server, record) for record in records] == [[], []]
    (warning,) = capfd.readouterr().err.splitlines()
    assert "not authenticated" in warning
    for path in (tmp_path / "project").rglob("*"):
        assert path.is_dir() or b"planted" not in path.read_bytes()
    assert "planted" not in warning


def test_an_earlier_run_does_not_hold_up_this_one(
    tmp_path: Path, proxy: Proxy, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    monkeypatch.setattr(sync, "PATIENCE_WITH_EARLIER_SECONDS", 0.5)
    tracking = tracked_by("mlflow", mlflow=proxy.address)
    address = f"mlflow:{proxy.address}"
    earlier, this = (
        new_record(tmp_path, new_run_id(), trackers=[address]) for _ in range(2)
    )
    for record in (earlier, this):
        log(record, 1, 4)
        record.end("FINISHED", None, time.time())
    proxy.hangs_at = earlier.info.id
    stage = StageWithin(this, {})
    monkeypatch.setattr(sync, "Stage", lambda: stage)
    monkeypatch.setattr(stage, "is_at_work", lambda: "hanging" not in proxy.requests)

    sync.follow(this.folder, tracking, tmp_path)

    assert audit_at(server, record_in(tmp_path, this.info.id)) == []
    assert record_in(tmp_path, earlier.info.id).unsynced([address])
