"""W&B shows what the record says, and its own process may die meanwhile."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.kills import is_gone, wait_until
from tests.project import PATIENCE_SECONDS, PROJECT
from tests.tracking.trackers import (
    RUN_ID,
    end_wandb,
    record_in,
    rows_of,
    run_in,
    start,
    tracked_by,
    until_it_says,
    wandb_core,
    wandb_rows,
    wandb_runs,
    warnings_on,
)
from toygpt.tracking import sync_worker
from toygpt.tracking import wandb as wandb_tracker
from toygpt.tracking.run import Run, bring_up_to_date
from toygpt.tracking.wandb import points_on_disk

TRACKING = tracked_by("wandb")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a project of which nobody is logged in to W&B."""
    for folder in ("home", "elsewhere", "root"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    wandb_tracker._warn_of_missing_key.cache_clear()
    yield tmp_path / "root"
    end_wandb()


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_worker, "FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(sync_worker, "LONGEST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(sync_worker, "PATIENCE_WITH_FAILURE_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
def gives_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the worker not wait for a tracker that fails to the end."""
    monkeypatch.setattr(sync_worker, "PATIENCE_WITH_FAILURE_SECONDS", 0.5)


def log(run: Run, steps: range) -> None:
    """Log a point for each step, and see that nobody has to wait for that."""
    for step in steps:
        started = time.monotonic()
        run.log_metrics({"loss": 1 / step, "speed": 10.0 * step}, step=step)
        assert time.monotonic() - started < 10, "as long as a busy disk takes"


def warning_of(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only warning."""
    (warning,) = warnings_on(capsys)
    assert warning.startswith("warning: wandb does not take what it is told: ")
    return warning


def check_that_all_is_told(root: Path, num_steps: int) -> None:
    """See each point once, and the run's end."""
    expected = rows_of(record_in(root))
    assert len(expected) == 2 * num_steps
    assert wandb_rows(root) == expected
    last = wandb_runs(root)[-1]
    assert (last.run_id, last.exit_code) == (RUN_ID, 0)
    assert last.config == {"seed": 7, "device": "abacus"}
    assert last.summary["parameters"] == 123.0
    record = record_in(root)
    assert record.info.unsynced(["wandb"], len(record.points)) == []


def test_wandb_holds_all_that_it_was_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")

    with run_in(
        root,
        tracked_by("wandb", tags={"mood": "good"}),
        params={"seed": 7, "train.learning_rate": 1e-3},
        metadata={"git.commit": "c0ffee"},
    ) as run:
        run.log_metrics({"loss": 3.0, "speed": 10.0}, step=5)
        run.log_metrics({"loss": 2.0}, step=10)
        run.log_metrics({"parameters": 123.0})
        run.log_directory(tmp_path / "model", name="model")

    (told,) = wandb_runs(root)
    assert (told.run_id, told.project, told.name) == (RUN_ID, "toy", "nano-python")
    assert told.tags == ["mood: good"]
    assert told.config == {
        "seed": 7,
        "train.learning_rate": 1e-3,
        "git.commit": "c0ffee",
    }
    assert told.history == [
        {"loss": 3.0, "speed": 10.0, "step": 5},
        {"loss": 2.0, "step": 10},
    ]
    assert told.summary["loss"] == 2.0
    assert told.summary["parameters"] == 123.0
    assert told.artifacts == {f"model-{RUN_ID}": {"config.json"}}
    assert told.exit_code == 0
    assert record_in(root).info.synced["wandb"].directories == ["model"]


def test_wandb_leaves_nothing_outside_the_folders_that_git_ignores(
    root: Path, tmp_path: Path
) -> None:
    with run_in(root, TRACKING) as run:
        run.log_metrics({"loss": 3.0}, step=5)
        run.log_directory(PROJECT / "stages", name="model")

    assert {path.name for path in root.iterdir()} == {"wandb", ".toygpt"}
    assert not list((tmp_path / "home").iterdir())
    assert not list((tmp_path / "elsewhere").iterdir())


TRAINING = """
import os, sys, time
from pathlib import Path
from tests.tracking.trackers import run_in, tracked_by

root = Path(sys.argv[1])
os.chdir(root)  # as a stage
with run_in(root, tracked_by("wandb")) as run:
    run.log_metrics({"loss": 1.5}, step=1)
    print("open", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_temporary_files_are_in_the_project_and_go_with_the_next_run(
    tmp_path: Path,
) -> None:
    """The folder is deep: a socket's path may have 107 bytes at most."""
    root = tmp_path / ("deep" * 15) / ("folder" * 10)
    temporary = root / ".toygpt" / "wandb" / "tmp"
    system = tmp_path / "system"
    for folder in (root, system):
        folder.mkdir(parents=True)
    variables = {"TMPDIR": str(system), "HOME": str(tmp_path)}

    killed = start(TRAINING, root, "60", variables=variables)
    with until_it_says(killed, "open"):
        sockets = list(temporary.glob(f"*/wandb-{killed.pid}-*/socket"))
        made_meanwhile = list(system.iterdir())
    left_behind = [path for folder in temporary.iterdir() for path in folder.iterdir()]
    following = start(TRAINING, root, "0", variables=variables)
    following.communicate(timeout=PATIENCE_SECONDS)

    assert following.returncode == 0
    assert len(sockets) == 1
    assert left_behind, "it was killed"
    assert made_meanwhile == list(system.iterdir()) == []
    assert list(temporary.iterdir()) == []
    assert not list(Path("/tmp").glob(f"wandb-{killed.pid}-*"))  # where W&B would go


def test_online_without_a_key_is_offline_and_says_so_once(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = tracked_by(wandb="online")

    for run_id in ("1", "2"):
        with run_in(root, tracking, run_id=run_id) as run:
            run.log_metrics({"loss": 3.0}, step=5)

    (warning,) = warnings_on(capsys)
    assert warning.startswith("warning: wandb has no API key and keeps the run offline")
    assert [told.run_id for told in wandb_runs(root)] == ["1", "2"]
    assert all(told.history == [{"loss": 3.0, "step": 5}] for told in wandb_runs(root))


def test_what_wandb_missed_is_told_after_its_process_was_killed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_in(root, TRACKING) as run:
        log(run, range(1, 4))
        killed = wandb_core()
        killed.kill()
        log(run, range(4, 6))
        wait_until(lambda: is_gone(killed))
        log(run, range(6, 9))
        run.log_metrics({"parameters": 123.0})

    warning_of(capsys)
    assert len(wandb_runs(root)) >= 2
    check_that_all_is_told(root, 8)


def test_what_was_lost_with_its_process_at_the_end_is_told_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All is told, nothing of it is on the disk yet, and there is no curve to miss."""
    real_close = wandb_tracker.WandbTracker.close
    killed: list[psutil.Process] = []

    def close(
        self: wandb_tracker.WandbTracker, *args: object, **kwargs: object
    ) -> None:
        if not killed:
            core = wandb_core()
            core.kill()
            wait_until(lambda: is_gone(core))
            killed.append(core)
        real_close(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(wandb_tracker.WandbTracker, "close", close)

    with run_in(root, TRACKING) as run:
        run.log_metrics({"parameters": 123.0})

    assert killed
    warning_of(capsys)
    check_that_all_is_told(root, 0)


def test_a_process_that_hangs_is_given_up_and_the_next_start_tells_the_rest(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sync_worker, "PATIENCE_SECONDS", 1.0)
        with run_in(root, TRACKING) as run:
            log(run, range(1, 4))
            hanging = wandb_core()
            hanging.send_signal(signal.SIGSTOP)
            log(run, range(4, 40))
            run.log_metrics({"parameters": 123.0})
            started = time.monotonic()
        waited = time.monotonic() - started
    told = record_in(root).info
    hanging.kill()
    wait_until(lambda: is_gone(hanging))
    wait_until(lambda: not [it for it in threading.enumerate() if "worker" in it.name])
    end_wandb()  # as if another process had started

    bring_up_to_date(TRACKING, root)

    assert waited < 10
    assert "it does not answer" in warning_of(capsys)
    assert told.unsynced(["wandb"], 40) == ["wandb"]
    check_that_all_is_told(root, 39)


def test_a_folder_that_was_deleted_meanwhile_is_written_anew(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_in(root, TRACKING) as run:
        log(run, range(1, 4))
        wait_until(lambda: bool(list((root / "wandb").glob("*run-*/*.wandb"))))
        # In one step: W&B's process may be making files in it.
        shutil.rmtree((root / "wandb").rename(root / "deleted"))
        log(run, range(4, 6))
        run.log_metrics({"parameters": 123.0})

    warning_of(capsys)
    check_that_all_is_told(root, 5)


@pytest.mark.usefixtures("gives_up_soon")
def test_a_folder_that_cannot_be_made_is_told_later(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "wandb").write_text("a file where the folder should be")
    with run_in(root, TRACKING) as run:
        log(run, range(1, 4))
        run.log_metrics({"parameters": 123.0})
    warning = warning_of(capsys)
    (root / "wandb").unlink()

    told = bring_up_to_date(TRACKING, root)

    assert "File exists" in warning, "the fault fired"
    assert told == ["nano-python"]
    check_that_all_is_told(root, 3)


@pytest.mark.usefixtures("gives_up_soon")
def test_a_folder_that_cannot_be_written_is_told_later(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """W&B itself would write to the system's temporary folder."""
    folder = root / "wandb"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o555)
    elif (
        shutil.which("chattr") is None
        or subprocess.run(["chattr", "+i", folder], capture_output=True).returncode
    ):
        pytest.skip("this system lets the superuser write everything")
    try:
        with run_in(root, TRACKING) as run:
            log(run, range(1, 4))
            run.log_metrics({"parameters": 123.0})
    finally:
        if os.geteuid():
            folder.chmod(0o755)
        else:
            subprocess.run(["chattr", "-i", folder], check=True)
    warning = warning_of(capsys)

    bring_up_to_date(TRACKING, root)

    assert "cannot be written" in warning, "the fault fired"
    check_that_all_is_told(root, 3)


@pytest.mark.usefixtures("gives_up_soon")
def test_without_wandb_the_work_goes_on(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", None)
        with run_in(root, TRACKING) as run:
            log(run, range(1, 4))
            run.log_metrics({"parameters": 123.0})

    assert "wandb" in warning_of(capsys)
    bring_up_to_date(TRACKING, root)
    check_that_all_is_told(root, 3)


def test_of_a_run_that_wandb_does_not_have_nothing_is_known(root: Path) -> None:
    with run_in(root, tracked_by()) as run:
        log(run, range(1, 4))

    assert points_on_disk(record_in(root).info, root) is None
