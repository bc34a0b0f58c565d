"""What an MLflow server misses arrives later, and its faults hold nothing up."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.mlflow.server import (
    PAGE,
    Proxy,
    Server,
    audit_at,
    running_server,
)
from tests.tracking.service import StageWithin, sync_beside
from tests.tracking.trackers import (
    Warned,
    log,
    new_record,
    record_in,
    run_in,
    tracked_by,
)
from toygpt.tracking import sync
from toygpt.tracking.record import Record, new_run_id
from toygpt.tracking.run_info import all_infos

pytestmark = pytest.mark.slow

# What the proxy answers instead of the server, and what the only warning says when the
# run is opened, or later.
ANOTHER = "does not answer as a server of MLflow"
TROUBLES: dict[str, tuple[tuple[int, str] | None, list[str]]] = {
    "down": (None, ["Connection refused", "Remote end closed connection"]),
    "broken": ((500, "Internal Server Error"), ["500"]),
    "full": ((507, "Insufficient Storage"), ["error code 507"]),
    "wrong password": ((401, "Not authenticated"), ["'Not authenticated'"]),
    "no permission": ((403, "Permission denied"), ["'Permission denied'"]),
    "a page": ((200, PAGE), [ANOTHER, "not in a valid JSON format"]),
    "no page": ((404, PAGE), [ANOTHER, "error code 404"]),
    "another service": ((404, '{"detail": "Nothing"}'), [ANOTHER, "'Nothing'"]),
}


@pytest.mark.parametrize(
    ("trouble", "when"),
    [*((name, "start") for name in TROUBLES)]
    + [(name, when) for name in ("down", "full") for when in ("middle", "end")],
)
def test_what_a_server_missed_arrives_when_it_works_again(
    root: Path,
    server: Server,
    proxy: Proxy,
    run_id: str,
    monkeypatch: pytest.MonkeyPatch,
    warned: Warned,
    trouble: str,
    when: str,
) -> None:
    answer, messages = TROUBLES[trouble]
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "someone")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "planted")
    tracking = tracked_by("mlflow", mlflow=proxy.address)
    record = new_record(root, run_id, trackers=[f"mlflow:{proxy.address}"])
    warnings: list[str] = []

    def work(step: int, *, is_faulty: bool) -> None:
        if is_faulty and answer is None:
            proxy.stop()
        elif proxy.is_down:
            proxy.start()
        proxy.answer = answer if is_faulty else None
        log(record, step, step + 3)
        warnings.extend(warned())

    steps: list[Callable[[], object]] = [
        lambda: work(1, is_faulty=when == "start"),
        lambda: work(4, is_faulty=when == "middle"),
        lambda: work(7, is_faulty=when == "end"),
        lambda: work(10, is_faulty=False),
    ]
    sync_beside(record, tracking, root, *steps)

    (warning,) = warnings
    assert warning.startswith(f"warning: mlflow:{proxy.address} cannot be synced: ")
    assert any(message in warning for message in messages), "the fault fired"
    assert "planted" not in warning
    assert warned() == []
    assert len(record.points) == 12
    assert audit_at(server, record) == []
    assert record_in(root, run_id).unsynced([f"mlflow:{proxy.address}"]) == []


@pytest.mark.usefixtures("gives_up_soon")
def test_what_a_server_missed_at_the_end_arrives_with_the_next_training(
    root: Path, server: Server, proxy: Proxy, run_id: str, warned: Warned
) -> None:
    tracking = tracked_by("mlflow", mlflow=proxy.address)
    with run_in(root, tracking, run_id=run_id) as run:
        log(run.record, 1, 4)
        proxy.stop()
    assert record_in(root, run_id).unsynced([f"mlflow:{proxy.address}"])
    assert "Connection refused" in warned()[0]
    proxy.start()

    with run_in(root, tracking, run_id=new_run_id()):
        pass

    assert audit_at(server, record_in(root, run_id)) == []
    assert warned() == []


def test_a_user_with_a_password_is_let_in_and_no_other(
    tmp_path: Path,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    gives_up_soon: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The user is warned once, without the password; the rest arrives later."""
    pytest.importorskip("flask_wtf", reason="the server needs it for its passwords")
    root = tmp_path / "project"
    for folder in ("server", "project"):
        (tmp_path / folder).mkdir()
    basic_auth = ("--app-name", "basic-auth")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
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
            with run_in(root, tracking, run_id=new_run_id()) as run:
                log(run.record, 1, 4)

        records = [Record(folder) for folder, _ in all_infos(root)]
        assert [audit_at(server, record) for record in records] == [[], []]
    (warning,) = capfd.readouterr().err.splitlines()
    assert "not authenticated" in warning
    for path in root.rglob("*"):
        assert path.is_dir() or b"planted" not in path.read_bytes()
    assert "planted" not in warning


def test_an_earlier_run_does_not_hold_up_this_one(
    root: Path, proxy: Proxy, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own process is killed: left alone, it would wait for 90 seconds."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    monkeypatch.setattr(sync, "PATIENCE_WITH_EARLIER_SECONDS", 0.5)
    tracking = tracked_by("mlflow", mlflow=proxy.address)
    address = f"mlflow:{proxy.address}"
    earlier, this = (
        new_record(root, new_run_id(), trackers=[address]) for _ in range(2)
    )
    for record in (earlier, this):
        log(record, 1, 4)
        record.end("FINISHED", None, record.info.started)
    proxy.hangs_at = earlier.info.id
    stage = StageWithin(this, {})
    monkeypatch.setattr(sync, "Stage", lambda: stage)
    monkeypatch.setattr(stage, "is_at_work", lambda: "hanging" not in proxy.requests)
    processes: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        processes.append(process := real_start(command, **options))
        return process

    real_start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", start)

    sync.follow(this.folder, tracking, root)

    assert [process.returncode for process in processes] == [-signal.SIGKILL]
    assert audit_at(server, record_in(root, this.info.id)) == []
    assert record_in(root, earlier.info.id).unsynced([address])
