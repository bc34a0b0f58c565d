"""The tests of chaos trust the audit: here it must find each disagreement."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.audit import audit
from toygpt.pipeline.params import TrackingParams
from toygpt.tracking.run import training_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run, synced with all trackers."""
    root = tmp_path_factory.mktemp("tracked") / "project"
    tracking = TrackingParams(mlflow=True, wandb="offline", project="audit", tags={})
    root.mkdir()
    with training_run("a-run", "mine", {}, {}, tracking=tracking, root=root) as run:
        for step in (1, 2):
            run.log_metrics({"loss": 3.0 - step}, step=step)
        run.log_metrics({"parameters": 7.0})
    return root


def change(sql: str) -> Callable[[Path], None]:
    """Return a function that runs this on MLflow's database."""

    def do(root: Path) -> None:
        with closing(sqlite3.connect(root / "mlflow.db")) as connection:
            assert connection.execute(sql).rowcount > 0
            connection.commit()

    return do


def lose_wandb(root: Path) -> None:
    """Remove all files of W&B."""
    shutil.rmtree(root / "wandb")


def open_wandb_twice(root: Path) -> None:
    """Add a second part of the run to W&B, with all of its points, too."""
    (folder,) = (root / "wandb").glob("offline-run-*")
    shutil.copytree(folder, folder.with_name("offline-run-20990101_000000-a-run"))


def end_record(root: Path) -> None:
    """Change the status in our own record."""
    path = root / ".toygpt/runs/a-run/run.json"
    path.write_text(path.read_text().replace('"FINISHED"', '"KILLED"'))


def lose_record(root: Path) -> None:
    """Remove our own record."""
    shutil.rmtree(root / ".toygpt/runs/a-run")


def test_where_all_agree_there_is_nothing_to_find(tracked: Path) -> None:
    assert audit(tracked) == []


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (change("DELETE FROM metrics WHERE step = 1"), "mlflow lacks (1, 'loss')"),
        (
            change("UPDATE metrics SET step = 3 WHERE step = 1"),
            "only mlflow has (3, 'loss')",
        ),
        (
            change("UPDATE metrics SET value = 9 WHERE step = 1"),
            "mlflow has 9.0 for (1, 'loss'), not 2.0",
        ),
        (
            change(
                "INSERT INTO metrics SELECT key, value, timestamp + 1, run_uuid, step, "
                "is_nan FROM metrics WHERE step = 1"
            ),
            "mlflow has (1, 'loss') 2 times",
        ),
        (
            change("DELETE FROM metrics WHERE key = 'parameters'"),
            "mlflow's results: {} instead of {'parameters': 7.0}",
        ),
        (change("UPDATE runs SET status = 'RUNNING'"), "mlflow's status: 'RUNNING'"),
        (change("UPDATE runs SET name = 'other'"), "mlflow's name: 'other'"),
        (change("DELETE FROM tags"), "mlflow has a run without a record: none"),
        (change("UPDATE runs SET lifecycle_stage = 'deleted'"), "mlflow has 0 runs"),
        (lose_wandb, "wandb has no run of it"),
        (open_wandb_twice, "wandb has (1, 'loss') 2 times"),
        (end_record, "wandb's exit code: 0 instead of 130"),
        (lose_record, "wandb has a run without a record: a-run"),
    ],
)
def test_every_disagreement_is_found(
    tracked: Path, tmp_path: Path, damage: Callable[[Path], None], found: str
) -> None:
    root = tmp_path / "project"
    shutil.copytree(tracked, root)

    damage(root)

    assert any(found in line for line in audit(root)), audit(root)
