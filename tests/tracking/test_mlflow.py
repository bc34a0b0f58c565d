"""MLflow shows what the record says, once its database can be written."""

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException
from sqlalchemy import event

from tests.faults.kills import wait_until
from tests.project import PATIENCE_SECONDS
from tests.tracking.trackers import (
    RUN_ID,
    give_database,
    mlflow_client,
    mlflow_files,
    mlflow_rows,
    mlflow_runs,
    record_in,
    rows_of,
    run_in,
    start,
    tracked_by,
    warnings_on,
)
from toygpt.pipeline.errors import InputError
from toygpt.tracking import mlflow as mlflow_tracker
from toygpt.tracking import sync_worker
from toygpt.tracking.mlflow import (
    model_from_mlflow,
    points_in_mlflow,
)
from toygpt.tracking.record import Point
from toygpt.tracking.run import Run, bring_up_to_date

TRACKING = tracked_by("mlflow")

FIRST_RUN = """
import sys
from pathlib import Path
from tests.tracking.trackers import run_in, tracked_by

what = {"run_id": sys.argv[2], "name": sys.argv[2]}
with run_in(Path(sys.argv[1]), tracked_by("mlflow"), **what) as run:
    run.log_metrics({"loss": 1.5}, step=1)
"""


class Answer(NamedTuple):
    """How a process ended."""

    returncode: int
    stderr: str


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Answer]]:
    """Let two processes be the first to use MLflow in the same folder.

    The first but for one that was killed before its database was finished.
    """
    root = tmp_path_factory.mktemp("shared")
    (root / ".toygpt").mkdir()
    (root / ".toygpt" / "mlflow.db.new").write_bytes(b"SQLite format 3\0 and no more")
    processes = [start(FIRST_RUN, root, name) for name in ("one", "other")]
    answers = [(process.communicate()[1], process.returncode) for process in processes]
    return root, [Answer(returncode, stderr) for stderr, returncode in answers]


@pytest.fixture
def root(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with MLflow's database, in which nothing was trained."""
    return give_database(tmp_path / "root", tmp_path_factory)


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the worker try soon and often, and SQLite wait for nobody."""
    monkeypatch.setattr(sync_worker, "FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(sync_worker, "LONGEST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(sync_worker, "PATIENCE_WITH_FAILURE_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(mlflow_tracker, "MAX_BUSY_SECONDS", 0.1)


@pytest.fixture(autouse=True)
def _short_busy_timeout() -> Iterator[None]:
    def shorten(_: Any, __: Any, sql: str, parameters: Any, *___: Any) -> Any:
        return sql.replace("busy_timeout = 20000", "busy_timeout = 300"), parameters

    event.listen(sqlalchemy.Engine, "before_cursor_execute", shorten, retval=True)
    yield
    event.remove(sqlalchemy.Engine, "before_cursor_execute", shorten)


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


def wait_for_points(root: Path, num_points: int) -> None:
    """Return when MLflow has them."""

    def has_them() -> bool:
        with suppress(MlflowException):  # busy with the worker
            return len(mlflow_rows(root)) == 2 * num_points
        return False

    wait_until(has_them)


def wait_for_warning(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only warning, when it has come."""
    seen: list[str] = []

    def has_come() -> bool:
        seen.extend(warnings_on(capsys))
        return bool(seen)

    wait_until(has_come)
    (warning,) = seen
    assert warning.startswith("warning: mlflow does not take what it is told: ")
    return warning


def check_that_all_is_told(root: Path, num_steps: int) -> None:
    """See each point once, and the run's end."""
    expected = rows_of(record_in(root))
    assert len(expected) == 2 * num_steps
    assert mlflow_rows(root) == expected
    (run,) = mlflow_runs(root)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "nano-python")
    assert run.data.params == {"seed": "7"}
    assert run.data.tags["device"] == "abacus"
    record = record_in(root)
    assert record.info.unsynced(["mlflow"], len(record.points)) == []


def test_two_first_runs_at_once_share_one_database(
    race: tuple[Path, list[Answer]],
) -> None:
    root, answers = race

    runs = mlflow_runs(root)

    for answer in answers:
        assert answer == Answer(returncode=0, stderr="")
    assert sorted(run.info.run_name for run in runs) == ["one", "other"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    names = [each.name for each in mlflow_client(root).search_experiments()]
    assert names.count("toy") == 1


def test_mlflow_holds_all_that_it_was_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "deep" / "file").write_text("text")

    with run_in(
        root,
        tracked_by("mlflow", tags={"mood": "good"}),
        params={"seed": 7, "train.learning_rate": 1e-3, "max_documents": None},
        metadata={"git.commit": "c0ffee", "device": "abacus"},
    ) as run:
        run.log_metrics({"loss": 3.0, "speed": 10.0}, step=5)
        run.log_metrics({"loss": 2.0}, step=10)
        run.log_metrics({"parameters": 123.0})
        run.remember_weights("ab" * 32)
        run.log_directory(tmp_path / "model", name="model")

    (told,) = mlflow_runs(root)
    assert told.info.run_name == "nano-python"
    assert told.data.params == {
        "seed": "7",
        "train.learning_rate": "0.001",
        "max_documents": "None",
    }
    tags = told.data.tags
    assert (tags["mood"], tags["device"]) == ("good", "abacus")
    assert tags["mlflow.source.git.commit"] == "c0ffee"
    assert tags["weights.sha256"] == "ab" * 32
    assert tags["toygpt.run"] == RUN_ID
    assert mlflow_rows(root) == [
        (0, "parameters", 123.0),
        (5, "loss", 3.0),
        (5, "speed", 10.0),
        (10, "loss", 2.0),
    ]
    files = {"model/config.json": "{}", "model/deep/file": "text"}
    assert mlflow_files(root, told) == files
    assert record_in(root).info.synced["mlflow"].directories == ["model"]


def test_mlflow_takes_more_than_it_takes_at_once(root: Path) -> None:
    params = {f"prompt.{number}": number for number in range(250)} | {
        "long": "x" * 9999
    }

    with run_in(root, TRACKING, params=params) as run:
        at_once = [
            Point(step, 0.0, {"loss": 1.0, "speed": 2.0}) for step in range(1, 701)
        ]
        assert run.record is not None
        run.record.points += at_once
        run.log_metrics({"loss": 0.5}, step=701)

    (told,) = mlflow_runs(root)
    assert told.data.params == {
        name: str(value)[:6000] for name, value in params.items()
    }
    assert len(mlflow_rows(root)) == 1401


def test_a_run_that_was_killed_before_its_parameters_were_told_gets_them(
    root: Path,
) -> None:
    """Even if it was never noted that MLflow has a run of it."""
    with run_in(root, TRACKING, params={"seed": 7}):
        pass
    (before,) = mlflow_runs(root)
    record = record_in(root)
    record.update(params={"seed": 7, "late": 1}, synced={})

    bring_up_to_date(TRACKING, root)

    (after,) = mlflow_runs(root)
    assert after.info.run_id == before.info.run_id
    assert after.data.params == {"seed": "7", "late": "1"}


@pytest.mark.usefixtures("gives_up_soon")
def test_a_name_that_mlflow_refuses_is_kept_in_the_record(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_in(root, TRACKING) as run:
        log(run, range(1, 2))
        wait_for_points(root, 1)
        run.log_metrics({"loss?": 2.0}, step=2)

    assert "loss?" in warnings_on(capsys)[0]
    assert mlflow_rows(root) == [(1, "loss", 1.0), (1, "speed", 10.0)]
    assert record_in(root).points[-1].metrics == {"loss?": 2.0}


@pytest.mark.usefixtures("gives_up_soon")
def test_without_mlflow_the_work_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mlflow", None)
        with run_in(tmp_path, TRACKING) as run:
            log(run, range(1, 4))
        assert points_in_mlflow(record_in(tmp_path).info, tmp_path) is None

    (warning,) = warnings_on(capsys)
    assert "mlflow" in warning
    assert len(record_in(tmp_path).points) == 3


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Let another connection keep the database to itself."""
    connection = sqlite3.connect(root / "mlflow.db", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


@contextmanager
def read_only(root: Path) -> Iterator[None]:
    """Let nobody write the database; of the superuser only some systems ask that."""
    database = root / "mlflow.db"
    if os.geteuid():
        database.chmod(0o444)
    elif (
        shutil.which("chattr") is None
        or subprocess.run(["chattr", "+i", database], capture_output=True).returncode
    ):
        pytest.skip("this system lets the superuser write everything")
    try:
        yield
    finally:
        if os.geteuid():
            database.chmod(0o644)
        else:
            subprocess.run(["chattr", "-i", database], check=True)


@contextmanager
def damaged(root: Path) -> Iterator[None]:
    """Overwrite the database where it lies; then put it away."""
    with (root / "mlflow.db").open("r+b") as file:
        file.write(b"no database" * 5000)
    yield
    (root / "mlflow.db").rename(root / "damaged.db")
    give_back_empty(root)


@contextmanager
def damaged_inside(root: Path) -> Iterator[None]:
    """Leave the first page of the database as it is, and damage all others."""
    with (root / "mlflow.db").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    yield
    (root / "mlflow.db").rename(root / "damaged.db")
    give_back_empty(root)


@contextmanager
def deleted(root: Path) -> Iterator[None]:
    """Delete the database, with all that belongs to it."""
    for path in root.glob("mlflow.db*"):
        path.unlink()
    (root / "mlflow.db-journal").write_bytes(b"of another database")
    yield
    give_back_empty(root)


@contextmanager
def emptied(root: Path) -> Iterator[None]:
    """Leave an empty file in its place, as SQLite does that looks for a database."""
    (root / "mlflow.db").unlink()
    (root / "mlflow.db").touch()
    yield
    give_back_empty(root)


@contextmanager
def full(root: Path) -> Iterator[None]:
    """Let nothing be written beyond the beginning of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (32 * 1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def give_back_empty(root: Path) -> None:
    """Put an empty database where there is none: to make one takes seconds."""
    template = root.parent / "empty.db"
    if template.exists():
        shutil.copy(template, root / "mlflow.db.copy")
        (root / "mlflow.db.copy").replace(root / "mlflow.db")


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "locked": (locked, "database is locked"),
    "read-only": (read_only, "readonly database"),
    "damaged": (damaged, "file is not a database"),
    "damaged inside": (damaged_inside, "malformed"),
    "deleted": (deleted, "No such file"),
    "emptied": (emptied, "mlflow.db is empty"),
    "full": (full, "disk"),
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=FAULTS)
def test_what_the_database_missed_is_told_when_it_listens_again(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Callable[[Path], Any],
    message: str,
) -> None:
    shutil.copy(root / "mlflow.db", tmp_path / "empty.db")
    monkeypatch.setattr(mlflow_tracker, "_create_database", not_now)
    with run_in(root, TRACKING) as run:
        log(run, range(1, 4))
        wait_for_points(root, 3)
        with fault(root):
            log(run, range(4, 30))
            warning = wait_for_warning(capsys)
            log(run, range(30, 33))
        log(run, range(33, 36))
        wait_for_points(root, 35)

    assert message in warning, "the fault fired"
    assert warnings_on(capsys) == []
    check_that_all_is_told(root, 35)


@pytest.mark.usefixtures("gives_up_soon")
@pytest.mark.parametrize(
    ("fault", "message"),
    [FAULTS["locked"], FAULTS["damaged"]],
    ids=["locked", "damaged"],
)
def test_what_the_database_missed_to_the_end_is_told_by_the_next_start(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fault: Callable[[Path], Any],
    message: str,
) -> None:
    shutil.copy(root / "mlflow.db", tmp_path / "empty.db")
    with fault(root):
        with run_in(root, TRACKING) as run:
            log(run, range(1, 6))
        (warning,) = warnings_on(capsys)

    with run_in(root, tracked_by(), run_id="2"):
        pass
    bring_up_to_date(TRACKING, root)

    assert message in warning, "the fault fired"
    assert record_in(root).info.status == "FINISHED"
    check_that_all_is_told(root, 5)


real_create_database = mlflow_tracker._create_database


def not_now(root: Path) -> None:
    """Wait for the test to put a database there: to make one takes seconds."""
    database = root / "mlflow.db"
    if not database.exists() or not database.stat().st_size:
        raise FileNotFoundError(f"{database} was deleted")
    real_create_database(root)


@pytest.mark.chaos
def test_a_database_that_was_deleted_is_made_anew(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_in(root, TRACKING) as run:
        log(run, range(1, 4))
        wait_for_points(root, 3)
        for path in root.glob("mlflow.db*"):
            path.unlink()
        log(run, range(4, 8))
        wait_for_warning(capsys)
        wait_until((root / "mlflow.db").exists)
        wait_for_points(root, 7)

    check_that_all_is_told(root, 7)


@pytest.mark.chaos
def test_a_database_that_is_locked_for_more_than_a_minute_is_told_all(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all the patience that everybody has."""
    monkeypatch.undo()
    with run_in(root, TRACKING) as run:
        log(run, range(1, 4))
        wait_for_points(root, 3)
        with locked(root):
            log(run, range(4, 8))
            time.sleep(65)
            log(run, range(8, 10))
        wait_until(lambda: len(mlflow_rows(root)) == 18)

    assert len(warnings_on(capsys)) == 1
    check_that_all_is_told(root, 9)


@pytest.fixture
def kept_run(root: Path, tmp_path: Path) -> Any:
    """Return a run with which MLflow keeps a model, as the stage train leaves it."""
    model = tmp_path / "model"
    (model / "deep").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "deep" / "file").write_text("text")
    with run_in(root, TRACKING) as run:
        run.log_directory(model, name="model")
    (told,) = mlflow_runs(root)
    return told


def files_in(folder: Path) -> dict[str, str]:
    """Return the texts of all files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def temporary(root: Path) -> Path:
    """Return the folder for copies of models, with one that a killed process left."""
    folder = root / ".toygpt" / "tmp"
    (folder / ".toygpt.1.tmp" / "model").mkdir(parents=True)
    return folder


def test_a_kept_model_is_there_for_as_long_as_it_is_needed(
    root: Path, kept_run: Any, temporary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = Path(kept_run.info.artifact_uri.removeprefix("file://")) / "model"
    address = f"runs:/{kept_run.info.run_id}/model"

    with model_from_mlflow(address, root=root) as directory:
        files = files_in(directory)
        (directory / "config.json").write_text("changed")
        is_a_copy = directory.is_relative_to(temporary)

    assert files == {"config.json": "{}", "deep/file": "text"}
    assert is_a_copy
    assert not list(temporary.iterdir())
    assert files_in(kept) == files, "MLflow's own"
    assert capfd.readouterr() == ("", "")


def test_a_kept_model_leaves_nothing_behind_where_its_use_fails(
    root: Path, kept_run: Any, temporary: Path
) -> None:
    address = f"runs:/{kept_run.info.run_id}/model"

    with (
        pytest.raises(ValueError, match="damaged"),
        model_from_mlflow(address, root=root),
    ):
        assert len(list(temporary.iterdir())) == 1
        raise ValueError("damaged")

    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    "which", ["/1", "/latest", "@best"], ids=["version", "latest", "alias"]
)
def test_a_registered_model_is_found_from_any_folder(
    root: Path,
    kept_run: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    which: str,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    client = mlflow_client(root)
    client.create_registered_model("toy")
    source = f"{kept_run.info.artifact_uri}/model"
    client.create_model_version("toy", source=source, run_id=kept_run.info.run_id)
    client.set_registered_model_alias("toy", "best", "1")

    with model_from_mlflow(f"models:/toy{which}", root=root) as found:
        files = files_in(found)
    left = [path.name for path in Path().iterdir()]

    assert files == {"config.json": "{}", "deep/file": "text"}
    assert not left


UNKNOWN = {
    "run": f"runs:/{'0' * 32}/model",
    "artifact": "runs:/RUN/samples",
    "folder-of-an-artifact": "runs:/RUN/model/deeper",
    "folder-outside": "runs:/RUN/../model",
    "no-artifact": "runs:/RUN",
    "no-run": "runs:/",
    "version": "models:/nobody/1",
    "latest": "models:/nobody/latest",
    "alias": "models:/nobody@best",
    "no-version": "models:/nobody",
    "no-name": "models:/",
}


def test_a_model_that_mlflow_does_not_keep_is_named(
    root: Path, kept_run: Any, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    for unknown in UNKNOWN.values():
        address = unknown.replace("RUN", kept_run.info.run_id)

        with (
            pytest.raises(InputError) as caught,
            model_from_mlflow(address, root=root),
        ):
            pass

        assert str(caught.value).startswith(f"cannot get {address} from MLflow: ")
        assert not list(temporary.iterdir())


@pytest.mark.parametrize("address", ["runs:/abc/model", "models:/toy/1"])
def test_without_a_database_none_is_made(tmp_path: Path, address: str) -> None:
    with (
        pytest.raises(InputError) as caught,
        model_from_mlflow(address, root=tmp_path),
    ):
        pass

    expected = f"cannot look up {address}: there is no mlflow.db in {tmp_path}"
    assert str(caught.value) == expected
    assert not list(tmp_path.iterdir())


def test_of_a_run_that_mlflow_does_not_have_nothing_is_known(
    root: Path, tmp_path: Path
) -> None:
    with run_in(root, TRACKING) as run:
        run.log_metrics({"loss": 1.0}, step=1)
    info = record_in(root).info
    there = points_in_mlflow(info, root)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "mlflow.db").write_bytes(b"no database" * 500)

    assert there == {(1, "loss"): 1.0}
    assert points_in_mlflow(info, tmp_path) is None
    assert not (tmp_path / "mlflow.db").exists()
