"""A run as MLflow and W&B have it, looked at from outside."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.kills import is_gone
from tests.project import PATIENCE_SECONDS, PROJECT
from toygpt.pipeline.params import TrackingParams
from toygpt.tracking.mlflow import _create_database
from toygpt.tracking.mlflow_locations import database_uri
from toygpt.tracking.record import Record, known_of, runs_folder
from toygpt.tracking.run import Run, training_run
from toygpt.tracking.wandb_files import WandbRun, read_runs

RUN_ID = "20260101-000000-abcdef"

# What a tracker has, with what it has twice: step, name, value.
Rows = list[tuple[int, str, float]]


def tracked_by(*trackers: str, **changes: Any) -> TrackingParams:
    """Return parameters that track with these."""
    values: dict[str, Any] = {
        "mlflow": "mlflow" in trackers,
        "wandb": "offline" if "wandb" in trackers else "disabled",
        "project": "toy",
        "tags": {},
    }
    return TrackingParams(**values | changes)


def run_in(
    root: Path, tracking: TrackingParams, **changes: Any
) -> AbstractContextManager[Run]:
    """Open the run that most tests are about, or go on with it."""
    values: dict[str, Any] = {
        "run_id": RUN_ID,
        "name": "nano-python",
        "params": {"seed": 7},
        "metadata": {"device": "abacus"},
    }
    return training_run(**values | changes, tracking=tracking, root=root)


def record_in(root: Path, run_id: str = RUN_ID) -> Record:
    """Return the record of that run."""
    return Record(runs_folder(root) / run_id)


def rows_of(record: Record) -> Rows:
    """Return what a tracker should have of a record's curves."""
    known = known_of(point for point in record.points if point.step is not None)
    return sorted((step or 0, name, value) for (step, name), value in known.items())


def give_database(root: Path, factory: pytest.TempPathFactory) -> Path:
    """Put an empty database of MLflow into a project: to make one takes seconds."""
    template = factory.getbasetemp() / "empty"
    if not (template / "mlflow.db").exists():
        (template / ".toygpt").mkdir(parents=True)
        _create_database(template)
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(template / "mlflow.db", root)
    return root


def mlflow_client(root: Path) -> Any:
    """Return MLflow's own way to look at what it holds."""
    from mlflow import MlflowClient

    uri = database_uri(root / "mlflow.db")
    return MlflowClient(uri, uri)


def mlflow_runs(root: Path, project: str = "toy") -> list[Any]:
    """Return all runs of a project."""
    client = mlflow_client(root)
    experiment = client.get_experiment_by_name(project)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def mlflow_rows(root: Path) -> Rows:
    """Return the curves of the only run, if there is one yet."""
    runs = mlflow_runs(root)
    assert len(runs) <= 1
    client = mlflow_client(root)
    return sorted(
        (point.step, name, point.value)
        for run in runs
        for name in run.data.metrics
        if not name.startswith("system/")
        for point in client.get_metric_history(run.info.run_id, name)
    )


def mlflow_files(root: Path, run: Any) -> dict[str, str]:
    """Return the files that MLflow keeps of a run, and what is in them."""
    folder = root / "mlartifacts" / "toy" / run.info.run_id / "artifacts"
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def wandb_runs(root: Path) -> list[WandbRun]:
    """Return what W&B has, one for each time that a run was opened."""
    return read_runs(root)


def wandb_rows(root: Path) -> Rows:
    """Return the curves of the only run, of all its folders together."""
    runs = read_runs(root)
    # A folder of which nothing was written has no id.
    assert len({run.run_id for run in runs} - {""}) <= 1
    return sorted(
        (row["step"], name, value)
        for run in runs
        for row in run.history
        for name, value in row.items()
        if name != "step"
    )


def warnings_on(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what our own code has warned of."""
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("warning: ")]


def wandb_core() -> psutil.Process:
    """Return W&B's own process, which belongs to this one."""
    children = psutil.Process().children(recursive=True)
    (core,) = [
        child
        for child in children
        if "wandb-core" in child.name() and not is_gone(child)
    ]
    return core


def end_wandb() -> None:
    """Let W&B forget all of this process, the folders of its first run as well."""
    import wandb

    with warnings.catch_warnings():
        # Nobody has asked how a process ended that was killed.
        warnings.simplefilter("ignore", ResourceWarning)
        with suppress(OSError):  # its own process may have been killed
            wandb.teardown()
        gc.collect()


def start(
    script: str, *arguments: str | Path, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start another process; it can say things, line by line."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("WANDB_", "MLFLOW_"))
        }
        | dict(variables or {}),
    )


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process that was started here, and see what it has started end."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_SECONDS)
    for child in alive:
        child.kill()
    assert not alive, "W&B's process ends by itself when there is nothing to follow"


@contextmanager
def until_it_says(process: subprocess.Popen[str], word: str) -> Iterator[None]:
    """Do something while the other process waits after having said a word."""
    assert process.stdout is not None
    try:
        said = process.stdout.readline().strip()
        if said != word:
            raise AssertionError(f"{said!r}\n{process.communicate()[1]}")
        yield
    finally:
        if process.poll() is None:
            kill(process)
