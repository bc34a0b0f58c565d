"""A run as MLflow and W&B have it, seen from outside."""

import gc
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import psutil

from tests.faults.kills import is_gone
from tests.files import files_in, write_files
from toygpt.pipeline.params import TrackingParams
from toygpt.tracking.mlflow.database import database_uri
from toygpt.tracking.mlflow.tracker import MLflowTracker
from toygpt.tracking.points import Point
from toygpt.tracking.record import Record
from toygpt.tracking.run import Run, training_run
from toygpt.tracking.run_info import runs_folder
from toygpt.tracking.wandb.files import files_of_runs
from toygpt.tracking.wandb.log import read_records

RUN_ID = "20260101-000000-abcdef"
WEIGHTS = "ab" * 32  # the digest of a model
MODEL_FILES = {
    "config.json": (
        '{"architectures": ["CTRLLMHeadModel"], "dtype": "float32", "n_positions": 16}'
    ),
    "deep/file": "text",
    "model.safetensors": "weights",
    "tokenizer_config.json": '{"tokenizer_class": "GPT2Tokenizer"}',
}

# Of a training of two steps; earlier versions called each loss `loss`.
RESULTS = {
    "models/toygpt/model.safetensors": "weights",
    "reports/train/train.csv": "step,train_loss,speed\n1,3.0,nan\n2,2.5,9\n",
    "reports/train/validation.csv": "step,loss\n2,2.75\n",
    "metrics/train.json": '{"parameters": 123, "steps": 2}',
}
POINTS = {
    (1, "train_loss"): 3.0,
    (2, "train_loss"): 2.5,
    (2, "speed"): 9.0,
    (2, "validation_loss"): 2.75,
    (None, "parameters"): 123.0,
    (None, "steps"): 2.0,
}

# Returns the warnings that our own code has printed since the last call.
Warned = Callable[[], list[str]]


def tracked_by(*trackers: str, **changes: Any) -> TrackingParams:
    """Return parameters with these trackers."""
    values: dict[str, Any] = {
        "mlflow": "mlflow" in trackers,
        "wandb": "offline" if "wandb" in trackers else "disabled",
        "project": "toy",
        "tags": {},
        "entity": None,
        "group": None,
        "job_type": None,
        "notes": None,
        "wandb_registry": None,
    }
    return TrackingParams(**values | changes)


def run_in(
    root: Path, tracking: TrackingParams, **changes: Any
) -> AbstractContextManager[Run]:
    """Open, or continue, the run that most tests are about."""
    values: dict[str, Any] = {
        "run_id": RUN_ID,
        "name": "nano-python",
        "params": {"seed": 7},
        "metadata": {"device": "abacus"},
    }
    return training_run(**values | changes, tracking=tracking, root=root)


def log_everything(
    root: Path, *trackers: str, run_id: str = RUN_ID, **changes: Any
) -> None:
    """Log one of everything that a run can have; its model is beside the project."""
    model = root.with_name("model")
    write_files(model, MODEL_FILES)
    with run_in(
        root,
        tracked_by(*trackers, tags={"mood": "good"}, **changes),
        run_id=run_id,
        params={"seed": 7, "train.learning_rate": 1e-3, "max_documents": None},
        metadata={"git.commit": "c0ffee"},
    ) as run:
        run.log_metrics({"loss": 3.0, "speed": 10.0}, step=5)
        run.log_metrics({"loss": 2.0}, step=10)
        run.log_metrics({"parameters": 123.0})
        run.remember_weights(WEIGHTS)
        run.log_directory(model, name="model")


def new_record(root: Path, run_id: str = RUN_ID, **changes: Any) -> Record:
    """Create the record of a training that has just begun."""
    values: dict[str, Any] = {
        "name": "nano-python",
        "project": "toy",
        "params": {"seed": 7, "train.learning_rate": 1e-3, "hub.token": None},
        "tags": {"mood": "good"},
        "trackers": ["mlflow", "wandb"],
        "metadata": {"device": "abacus"},
    }
    return Record.create(root, id=run_id, **values | changes)


def record_in(root: Path, run_id: str = RUN_ID) -> Record:
    return Record(runs_folder(root) / run_id)


def log(record: Record, start: int, stop: int) -> None:
    """Log a point for each step from the first to before the last."""
    for step in range(start, stop):
        record.append({"loss": 1 / step, "speed": 10.0 * step}, step=step)


def log_model_of(
    root: Path, record: Record, tracking: TrackingParams, results: dict[str, float]
) -> None:
    """Log a training that is over, with its model, to MLflow."""
    write_files(root / "model", MODEL_FILES)
    record.update(status="FINISHED", ended=1.0)
    tracker = MLflowTracker(record.info, tracking, root)
    tracker.log_metadata(record.info.metadata)
    tracker.log_points([Point(None, 1.0, results)])
    tracker.log_directory(root / "model", name="model")
    tracker.close("FINISHED", ended=1.0)


@contextmanager
def disk_full_after(num_bytes: int) -> Iterator[None]:
    """Leave room for so many bytes in a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def mlflow_client(root: Path) -> Any:
    from mlflow import MlflowClient

    uri = database_uri(root / "mlflow.db")
    return MlflowClient(uri, uri)


def mlflow_runs(root: Path, project: str = "toy") -> list[Any]:
    client = mlflow_client(root)
    experiment = client.get_experiment_by_name(project)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def mlflow_files(root: Path, run: Any) -> dict[str, str]:
    """Return the files of a run, but those of its logged model."""
    return files_in(root / "mlartifacts" / "toy" / run.info.run_id / "artifacts")


def logged_models(root: Path) -> list[Any]:
    """Return the models that MLflow can load, and those half logged."""
    client = mlflow_client(root)
    experiment = client.get_experiment_by_name("toy")
    return list(client.search_logged_models([experiment.experiment_id]))


def files_of(model: Any) -> dict[str, str]:
    """Return the files of a logged model."""
    return files_in(Path(url2pathname(urlsplit(model.artifact_location).path)))


def wandb_records(folder: Path, kind: str) -> list[Any]:
    """Return what W&B has written of a kind: `run`, `artifact`, ..."""
    records = [it for log in files_of_runs(folder) for it in read_records(log)]
    return [getattr(it, kind) for it in records if it.HasField(kind)]


def wandb_core() -> psutil.Process:
    """Return W&B's own process, a child of this one."""
    children = psutil.Process().children(recursive=True)
    (core,) = [it for it in children if not is_gone(it) and "wandb-core" in it.name()]
    return core


# W&B's command; its agent asks for the next trial soon, not every five seconds.
WANDB = """
from wandb.cli.cli import cli
from wandb.wandb_agent import Agent
Agent.POLL_INTERVAL = 0.1
cli()
"""


def wandb_killer() -> Callable[[], None]:
    """Return a function that kills W&B's own process, also if W&B has forgotten it."""
    from wandb.sdk import wandb_setup

    core, service = wandb_core(), wandb_setup.singleton().ensure_service()

    def kill() -> None:
        core.kill()
        service._proc.join()  # W&B would not, and Python would warn when pytest ends

    return kill


def wandb_command(root: Path, *arguments: str) -> str:
    """Run a command of W&B's in a project, and return what it prints."""
    environment = {"WANDB_MODE": "offline"} | os.environ
    environment["WANDB_ERROR_REPORTING"] = "false"
    environment.pop("WANDB_SILENT", None)
    ran = subprocess.run(
        [sys.executable, "-c", WANDB, *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout + ran.stderr


def end_wandb() -> None:
    """Make W&B forget all runs of this process, and the folder of the first."""
    import wandb

    with warnings.catch_warnings():
        # A killed process whose exit code was never read.
        warnings.simplefilter("ignore", ResourceWarning)
        with suppress(OSError):  # its own process may have been killed
            wandb.teardown()
        gc.collect()
        gc.freeze()  # next time, there is less to look at
