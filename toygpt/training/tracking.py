"""Tell MLflow and Weights & Biases about a training and what came of it.

Both are views of the run, never a part of it: a tracker that fails is left aside, and
the user told once. Their records lie in the project that the user works in, whichever
temporary folder an experiment runs in. A run is known by the digest of its weights, so
that later stages add to the run of the very model they judge.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import logging
import os
import secrets
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from toygpt.errors import InputError, first_line
from toygpt.files import write_json

if TYPE_CHECKING:
    from toygpt.params import TrackingParams

MLFLOW_DATABASE = "mlflow.db"
MLFLOW_ARTIFACTS = "mlartifacts"
# MLflow refuses to take more at once.
MLFLOW_MAX_PARAMS = 100
MLFLOW_MAX_PARAM_LENGTH = 6000


class Tracker(Protocol):
    """What a run asks of each of the services that follow it."""

    run_id: str

    def log_facts(self, facts: Mapping[str, str]) -> None:
        """Note what is true of the whole run and no parameter: a digest, a version."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int | None) -> None:
        """Note one point of each curve; without a step, a final result."""

    def log_directory(self, directory: Path, *, name: str) -> None:
        """Keep a copy of all files in a directory."""

    def close(self, status: str | None) -> None:
        """End the run as FINISHED, FAILED or KILLED; None leaves it as it was."""


class Run:
    """One training, as told to every tracker."""

    def __init__(
        self, name: str, project: str, root: Path, trackers: dict[str, Tracker]
    ) -> None:
        self.name = name
        self.project = project
        self.root = root
        self.trackers = trackers

    def log_facts(self, facts: Mapping[str, str]) -> None:
        """Note what is true of the whole run and no parameter."""
        self._tell(lambda tracker: tracker.log_facts(facts))

    def log_metrics(
        self, metrics: Mapping[str, float], *, step: int | None = None
    ) -> None:
        """Note one point of each curve; without a step, a final result."""
        self._tell(lambda tracker: tracker.log_metrics(metrics, step=step))

    def log_directory(self, directory: Path, *, name: str) -> None:
        """Keep a copy of all files in a directory."""
        self._tell(lambda tracker: tracker.log_directory(directory, name=name))

    def remember(self, weights_sha256: str) -> None:
        """Let later stages find this run by the weights that came of it."""
        ids = {name: tracker.run_id for name, tracker in self.trackers.items()}
        try:
            write_json(
                _registry(self.root) / f"{weights_sha256}.json",
                {"name": self.name, "project": self.project, "ids": ids},
            )
        except OSError as error:
            _warn(f"later stages will not find this run: {error}")

    def close(self, status: str | None) -> None:
        """End the run as FINISHED, FAILED or KILLED; None leaves it as it was."""
        self._tell(lambda tracker: tracker.close(status))

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                what(tracker)
            except Exception as error:  # whatever it is, it must not end the run
                _give_up(name, error)
                del self.trackers[name]
                with suppress(Exception):
                    tracker.close("FAILED")


@contextmanager
def new_run(
    name: str,
    params: Mapping[str, Any],
    facts: Mapping[str, str],
    *,
    tracking: TrackingParams,
    root: Path,
) -> Iterator[Run]:
    """Open a run with every tracker; it ends as the block does.

    Args:
        name: What the trackers show.
        params: All parameters, flattened.
        facts: What is true of the whole run and no parameter.
        tracking: Which trackers, and the project's name there.
        root: The project that the user works in.
    """
    trackers = _open_trackers(name, dict(params), tracking, root, None)
    run = Run(name, tracking.project, root, trackers)
    run.log_facts(facts)
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        run.close(status)


@contextmanager
def run_of_model(
    weights_sha256: str, *, tracking: TrackingParams, root: Path
) -> Iterator[Run]:
    """Go on with the run that trained a model; its status stays as it is.

    A model that was not trained here (restored from a cache, pulled from a remote) has
    no run here; then nothing is logged.
    """
    run = Run("", tracking.project, root, {})
    try:
        record = json.loads(
            (_registry(root) / f"{weights_sha256}.json").read_text(encoding="utf-8")
        )
        name, project = record["name"], record["project"]
        as_then = tracking.model_copy(update={"project": project})
        trackers = _open_trackers(name, {}, as_then, root, dict(record["ids"]))
        run = Run(name, project, root, trackers)
    except FileNotFoundError:
        pass
    except (OSError, KeyError, TypeError, ValueError) as error:
        _warn(f"the run that trained this model gets no more of it: {error}")
    try:
        yield run
    finally:
        run.close(None)


@contextmanager
def model_from_mlflow(address: str, *, root: Path) -> Iterator[Path]:
    """Yield the directory of a model that MLflow keeps, for as long as it is needed.

    Args:
        address: `runs:/RUN_ID/model`, or `models:/NAME/VERSION` of a registered model.
        root: The project whose database knows it.

    Raises:
        InputError: MLflow knows no such model.
    """
    if not (root / MLFLOW_DATABASE).is_file():
        raise InputError(
            f"cannot look up {address}: there is no {MLFLOW_DATABASE} in {root}"
        )
    _keep_mlflow_calm()
    import mlflow

    uri = f"sqlite:///{root / MLFLOW_DATABASE}"
    # Registered models are looked up in no other way.
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    with TemporaryDirectory(prefix="toygpt-") as folder:
        try:
            directory = mlflow.artifacts.download_artifacts(
                artifact_uri=address, dst_path=folder
            )
        except Exception as error:  # MLflow's own, the database's, the disk's
            raise InputError(
                f"cannot get {address} from MLflow: {first_line(error)}"
            ) from None
        yield Path(directory)


def _keep_mlflow_calm() -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _registry(root: Path) -> Path:
    return root / ".toygpt" / "runs"


def _open_trackers(
    name: str,
    params: dict[str, Any],
    tracking: TrackingParams,
    root: Path,
    known_ids: dict[str, str] | None,
) -> dict[str, Tracker]:
    """Open the wanted trackers: for a new run, or for the one that has these ids."""
    ids = known_ids or {}
    wanted: dict[str, Callable[[], Tracker]] = {}
    if tracking.mlflow:
        wanted["mlflow"] = lambda: MLflowTracker(
            name, params, tracking, root, run_id=ids.get("mlflow")
        )
    if tracking.wandb != "disabled":
        wanted["wandb"] = lambda: WandbTracker(
            name, params, tracking, root, run_id=ids.get("wandb")
        )
    trackers: dict[str, Tracker] = {}
    for tracker, open_it in wanted.items():
        if known_ids is not None and tracker not in known_ids:
            continue  # it was not told of this run, and is not told of half of it
        try:
            trackers[tracker] = open_it()
        except Exception as error:  # whatever it is, it must not end the run
            _give_up(tracker, error)
    return trackers


def _give_up(tracker: str, error: Exception) -> None:
    _warn(f"{tracker} gets no more of this run: {first_line(error)}")


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


class MLflowTracker:
    """A run in the SQLite database of the main workspace."""

    def __init__(
        self,
        name: str,
        params: dict[str, Any],
        tracking: TrackingParams,
        root: Path,
        *,
        run_id: str | None,
    ) -> None:
        _keep_mlflow_calm()
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if "?" in str(root):
            raise ValueError(
                f"it cannot keep a database in a folder with a '?': {root}"
            )
        uri = f"sqlite:///{root / MLFLOW_DATABASE}"
        self._monitor: Any = None
        with _alone(root / ".toygpt" / "mlflow.lock"):
            _create_database(root)
            self._client = MlflowClient(uri)
            experiment_id = self._experiment_id(tracking.project, root)
        self._is_new = run_id is None
        if run_id is not None:
            self.run_id = run_id
            return

        run = self._client.create_run(
            experiment_id,
            run_name=name,
            tags={
                "mlflow.user": _user(),
                "mlflow.source.type": "LOCAL",
                "mlflow.source.name": "stages.train",
                **tracking.tags,
            },
        )
        self.run_id = run.info.run_id
        entries = [
            Param(key, str(value)[:MLFLOW_MAX_PARAM_LENGTH])
            for key, value in params.items()
        ]
        for first in range(0, len(entries), MLFLOW_MAX_PARAMS):
            self._client.log_batch(
                self.run_id, params=entries[first : first + MLFLOW_MAX_PARAMS]
            )
        self._monitor = SystemMetricsMonitor(self.run_id, tracking_uri=uri)
        self._monitor.start()

    def _experiment_id(self, project: str, root: Path) -> str:
        """Return the experiment's id; it keeps artifacts here, not where we run."""
        experiment = self._client.get_experiment_by_name(project)
        if experiment is not None:
            return str(experiment.experiment_id)
        location = (root / MLFLOW_ARTIFACTS / project).as_uri()
        return str(self._client.create_experiment(project, location))

    def log_facts(self, facts: Mapping[str, str]) -> None:
        """Set each fact as a tag."""
        from mlflow.entities import RunTag

        names = {"git.commit": "mlflow.source.git.commit"}
        tags = [RunTag(names.get(key, key), value) for key, value in facts.items()]
        self._client.log_batch(self.run_id, tags=tags)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int | None) -> None:
        """Add a point to each curve."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self.run_id,
            metrics=[Metric(key, v, now, step or 0) for key, v in metrics.items()],
        )

    def log_directory(self, directory: Path, *, name: str) -> None:
        """Copy the directory into the run's artifacts."""
        self._client.log_artifacts(self.run_id, str(directory), name)

    def close(self, status: str | None) -> None:
        """Stop watching the machine, and set the status of a run that began here."""
        if self._monitor is not None:
            self._monitor.finish()
        if status is not None and self._is_new:
            self._client.set_terminated(self.run_id, status)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a user may have no name
        return str(os.getuid())


def _create_database(root: Path) -> None:
    """Let MLflow create its tables aside, and put the finished database in place.

    MLflow itself creates them without a lock: two first runs at once crash, and one
    that is killed meanwhile leaves a database that nothing can open.
    """
    database = root / MLFLOW_DATABASE
    if database.exists():
        # MLflow would try a damaged one again and again, for minutes.
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA schema_version")
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    unfinished = root / ".toygpt" / f"{MLFLOW_DATABASE}.new"
    unfinished.unlink(missing_ok=True)
    store = SqlAlchemyStore(
        f"sqlite:///{unfinished}", (root / MLFLOW_ARTIFACTS).as_uri()
    )
    store.engine.dispose()
    unfinished.replace(database)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process is inside, and keep others out."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class WandbTracker:
    """A run in the main workspace's wandb/ folder, and online if wanted."""

    def __init__(
        self,
        name: str,
        params: dict[str, Any],
        tracking: TrackingParams,
        root: Path,
        *,
        run_id: str | None,
    ) -> None:
        folder = str(root / ".toygpt" / "wandb")
        os.environ["WANDB_DATA_DIR"] = os.environ["WANDB_CACHE_DIR"] = folder
        if tracking.wandb != "online":  # where `wandb login` has noted a server
            os.environ["WANDB_CONFIG_DIR"] = folder
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        os.environ["WANDB_SILENT"] = "true"
        (root / "wandb").mkdir(exist_ok=True)
        import wandb

        mode = tracking.wandb
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            _warn(
                "wandb has no API key and keeps the run offline: run `wandb login`, "
                "then `wandb sync --sync-all`"
            )
            mode = "offline"
        self.run_id = run_id or secrets.token_hex(4)
        self._run = wandb.init(
            project=tracking.project,
            id=self.run_id,
            name=name,
            dir=root,
            mode=mode,
            resume="allow",
            config=params or None,
            tags=[f"{key}: {value}" for key, value in tracking.tags.items()],
            settings=wandb.Settings(
                console="off",
                disable_git=True,  # an address of a remote may hold a password
                save_code=False,
                init_timeout=30,
                finish_timeout=60,
            ),
        )
        self._run.define_metric("*", step_metric="step")

    def log_facts(self, facts: Mapping[str, str]) -> None:
        """Add the facts to the run's configuration."""
        self._run.config.update(dict(facts), allow_val_change=True)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int | None) -> None:
        """Add a point to each curve, or a result to the summary."""
        if step is None:
            self._run.summary.update(dict(metrics))
        else:
            self._run.log({**metrics, "step": step})

    def log_directory(self, directory: Path, *, name: str) -> None:
        """Keep the directory as an artifact of the run."""
        import wandb

        artifact = wandb.Artifact(f"{name}-{self.run_id}", type=name)
        artifact.add_dir(str(directory))
        self._run.log_artifact(artifact)

    def close(self, status: str | None) -> None:
        """Write out what is still in memory, and end the run."""
        self._run.finish(exit_code=0 if status in (None, "FINISHED") else 1)
