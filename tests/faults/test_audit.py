"""The tests of chaos trust the audit: here it must find each disagreement."""

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.audit import audit
from tests.tracking.trackers import tracked_by
from toygpt.tracking.run import training_run

pytestmark = pytest.mark.slow

CHANGES_OF_MLFLOW = {
    "DELETE FROM metrics WHERE step = 1": "mlflow lacks (1, 'loss')",
    "UPDATE metrics SET step = 3 WHERE step = 1": "only mlflow has (3, 'loss')",
    "UPDATE metrics SET value = 9 WHERE step = 1": (
        "mlflow has 9.0 for (1, 'loss'), not 2.0"
    ),
    "INSERT INTO metrics SELECT key, value, timestamp + 1, run_uuid, step, is_nan "
    "FROM metrics WHERE step = 1": "mlflow has (1, 'loss') 2 times",
    "DELETE FROM tags WHERE key = 'toygpt.parameters'": (
        "mlflow's results: {} instead of {'parameters': 7.0}"
    ),
    "UPDATE runs SET status = 'RUNNING'": "mlflow's status: 'RUNNING'",
    "UPDATE runs SET name = 'other'": "mlflow's name: 'other'",
    "DELETE FROM tags": "mlflow has a run without a record: none",
    "UPDATE runs SET lifecycle_stage = 'deleted'": "mlflow has 0 runs",
}
CHANGES_OF_FILES = {
    "rm -r wandb": "wandb has 0 runs of it",
    "cp -r wandb/offline-run-* wandb/offline-run-20990101_000000-a-run": (
        "wandb has (1, 'loss') 2 times"
    ),
    "sed -i s/FINISHED/KILLED/ .toygpt/runs/a-run/run.json": (
        "wandb's status: 0 instead of 130"
    ),
    "rm -r .toygpt/runs/a-run": "wandb has a run without a record: a-run",
}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run, synced with all trackers."""
    root = tmp_path_factory.mktemp("tracked") / "project"
    tracking = tracked_by("mlflow", "wandb", project="audit")
    root.mkdir()
    with training_run("a-run", "mine", {}, {}, tracking=tracking, root=root) as run:
        for step in (1, 2):
            run.log_metrics({"loss": 3.0 - step}, step=step)
        run.log_metrics({"parameters": 7.0})
    return root


def test_where_all_agree_there_is_nothing_to_find(tracked: Path) -> None:
    assert audit(tracked) == []


@pytest.mark.parametrize("change", [*CHANGES_OF_MLFLOW, *CHANGES_OF_FILES])
def test_every_disagreement_is_found(
    tracked: Path, tmp_path: Path, change: str
) -> None:
    root = tmp_path / "project"
    shutil.copytree(tracked, root)

    if change in CHANGES_OF_FILES:
        subprocess.run(change, shell=True, cwd=root, check=True)
    else:
        with closing(sqlite3.connect(root / "mlflow.db")) as connection:
            assert connection.execute(change).rowcount > 0
            connection.commit()

    found = "\n".join(audit(root))
    assert (CHANGES_OF_MLFLOW | CHANGES_OF_FILES)[change] in found
