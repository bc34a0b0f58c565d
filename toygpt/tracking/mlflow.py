"""MLflow: a run in the SQLite database of the main workspace."""

from __future__ import annotations

import fcntl
import getpass
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError, first_line
from toygpt.pipeline.files import temporary_directory
from toygpt.tracking.mlflow_locations import (
    ARTIFACTS,
    DATABASE,
    MAX_BUSY_SECONDS,
    correct_locations,
    database_uri,
    foreign_locations,
)
from toygpt.tracking.record import Known, Point, RunInfo, Status, known_of
from toygpt.tracking.tracker import RunNotWantedError, UserActionNeededError

if TYPE_CHECKING:
    from toygpt.pipeline.params import TrackingParams

# By this mark a run is found again, even if its id was never noted.
RECORD_TAG = "toygpt.run"
# Of the locations whose files MLflow's server keeps.
SERVER_SCHEME = "mlflow-artifacts:"
# MLflow refuses to take more at once.
MAX_PARAMS = 100
MAX_METRICS = 1000
MAX_PARAM_LENGTH = 6000


class MLflowTracker:
    """A run in MLflow: the one of this record, new if there is none."""

    def __init__(self, info: RunInfo, tracking: TrackingParams, root: Path) -> None:
        _keep_mlflow_calm()
        from mlflow import MlflowClient

        self._database = root / DATABASE
        self._monitor: Any = None
        self.known: Known = {}
        self.directories: set[str] = set()
        uri = database_uri(self._database)
        with _alone(root / ".toygpt" / "mlflow.lock"):
            _create_database(root)
            correct_locations(root, foreign_locations(root))
            self._client = MlflowClient(uri)
            experiment_id = self._experiment_id(info.project, tracking.project, root)

        found = _find_run(self._client, experiment_id, info)
        if found is not None:
            if found.info.lifecycle_stage == "deleted":
                raise RunNotWantedError
            self.run_id = found.info.run_id
            _bring_files_of(self.run_id, root)
            self._take_up(found, info)
        else:
            self.run_id = self._create(experiment_id, info)
        if info.status == "RUNNING":
            from mlflow.system_metrics.system_metrics_monitor import (
                SystemMetricsMonitor,
            )

            self._monitor = SystemMetricsMonitor(
                self.run_id, tracking_uri=uri, resume_logging=found is not None
            )
            self._monitor.start()

    def _experiment_id(self, project: str, wanted_project: str, root: Path) -> str:
        """Return the experiment's id; it keeps artifacts here, not where we run.

        Raises:
            RunNotWantedError: The experiment takes no runs, and the user chose another.
            UserActionNeededError: It takes no runs: it was deleted, or is the server's.
        """
        experiment = self._client.get_experiment_by_name(project)
        if experiment is None:
            location = (root / ARTIFACTS / project).as_uri()
            return str(self._client.create_experiment(project, location))
        is_deleted = experiment.lifecycle_stage == "deleted"
        is_of_server = experiment.artifact_location.startswith(SERVER_SCHEME)
        if (is_deleted or is_of_server) and project != wanted_project:
            raise RunNotWantedError
        if is_of_server:
            raise UserActionNeededError(
                f"its experiment {project} was created by MLflow's server, which "
                f"keeps the files: choose another tracking.project in params.yaml"
            )
        if is_deleted:
            raise UserActionNeededError(
                f"its experiment {project} was deleted. To restore it, run "
                f"`{restore_command(experiment.experiment_id)}` in {root}, then "
                f"`python . track`; or choose another tracking.project in params.yaml"
            )
        return str(experiment.experiment_id)

    def _create(self, experiment_id: str, info: RunInfo) -> str:
        run = self._client.create_run(
            experiment_id,
            start_time=int(info.started * 1000),
            run_name=info.name,
            tags={
                "mlflow.user": _user(),
                "mlflow.source.type": "LOCAL",
                "mlflow.source.name": "stages.train",
                RECORD_TAG: info.id,
                **info.tags,
            },
        )
        self._log_params(run.info.run_id, info.params)
        return str(run.info.run_id)

    def _take_up(self, run: Any, info: RunInfo) -> None:
        """Go on with a run: learn what it has, and show that it runs again."""
        if info.status == "RUNNING":
            self._client.update_run(self.run_id, status="RUNNING", name=info.name)
        # MLflow takes no second value of a parameter.
        missing = info.params.keys() - run.data.params.keys()
        self._log_params(self.run_id, {key: info.params[key] for key in missing})
        self._look_up(run)

    def _look_up(self, run: Any) -> None:
        self.known = _points_of(self._client, run)
        artifacts = self._client.list_artifacts(self.run_id)
        self.directories = {artifact.path for artifact in artifacts}

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [
            Param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in params.items()
        ]
        for first in range(0, len(entries), MAX_PARAMS):
            self._client.log_batch(run_id, params=entries[first : first + MAX_PARAMS])

    def log_metadata(self, metadata: Mapping[str, str]) -> None:
        """Set each fact as a tag."""
        from mlflow.entities import RunTag

        self._check_database()
        names = {"git.commit": "mlflow.source.git.commit"}
        tags = [RunTag(names.get(key, key), value) for key, value in metadata.items()]
        self._client.log_batch(self.run_id, tags=tags)

    def log_points(self, points: Sequence[Point]) -> None:
        """Add the points to their curves; MLflow keeps results at step 0."""
        from mlflow.entities import Metric

        self._check_database()
        metrics = [
            Metric(name, value, int(point.time * 1000), point.step or 0)
            for point in points
            for name, value in point.metrics.items()
        ]
        for first in range(0, len(metrics), MAX_METRICS):
            self._client.log_batch(
                self.run_id, metrics=metrics[first : first + MAX_METRICS]
            )
        self.known |= known_of(points)

    def log_directory(self, directory: Path, *, name: str) -> None:
        """Copy the directory into the run's artifacts."""
        self._check_database()
        self._client.log_artifacts(self.run_id, str(directory), name)

    def close(self, status: Status, *, ended: float) -> None:
        """Stop watching the machine, and set the status."""
        self._stop_monitor()
        self._check_database()
        self._client.set_terminated(self.run_id, status, end_time=int(ended * 1000))
        self._look_up(self._client.get_run(self.run_id))
        self._check_database()

    def abandon(self) -> None:
        """Stop watching the machine."""
        self._stop_monitor()

    def _stop_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None

    def _check_database(self) -> None:
        """Notice a database that was deleted: SQLite would make an empty one.

        Raises:
            FileNotFoundError: It was.
        """
        if not self._database.stat().st_size:
            raise FileNotFoundError(f"{self._database} is empty")


def restore_command(experiment_id: str | int) -> str:
    """Return the command that restores a deleted experiment, in the project's folder.

    It names the database: otherwise MLFLOW_TRACKING_URI, or a folder mlruns/, decides.
    """
    return (
        f"MLFLOW_TRACKING_URI=sqlite:///{DATABASE} "
        f"mlflow experiments restore --experiment-id {experiment_id}"
    )


def _bring_files_of(run_id: str, root: Path) -> None:
    """Copy a run's files here if they are at another place alone: it may get more."""
    locations = foreign_locations(root)
    of_run = [location for location in locations if run_id in location.old_path.parts]
    correct_locations(root, of_run, copying=True)


def _find_run(client: Any, experiment_id: str, info: RunInfo) -> Any:
    """Return the run of a record, deleted or not, if there is one."""
    from mlflow.entities import ViewType

    found = client.search_runs(
        [experiment_id],
        filter_string=f"tags.`{RECORD_TAG}` = '{info.id}'",
        run_view_type=ViewType.ALL,
    )
    return found[0] if found else None


def _points_of(client: Any, run: Any) -> Known:
    """Return all that was told of a run; what the machine was doing is not."""
    known: Known = {}
    for name in run.data.metrics:
        if name.startswith("system/"):
            continue
        for metric in client.get_metric_history(run.info.run_id, name):
            known[metric.step, name] = metric.value
            if metric.step == 0:  # where results are
                known[None, name] = metric.value
    return known


def points_in_mlflow(info: RunInfo, root: Path) -> Known | None:
    """Return what the database has of a run; None if the run is not found there."""
    if not (root / DATABASE).is_file():
        return None
    _keep_mlflow_calm()
    try:
        from mlflow import MlflowClient

        client = MlflowClient(database_uri(root / DATABASE))
        experiment = client.get_experiment_by_name(info.project)
        run = experiment and _find_run(client, experiment.experiment_id, info)
        return _points_of(client, run) if run else None
    except Exception:  # the tracker itself will say what is wrong
        return None


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
    database = root / DATABASE
    # Whoever still had one open that was deleted may have left an empty one there.
    if database.exists() and database.stat().st_size:
        _check_that_it_opens(database)
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    unfinished = root / ".toygpt" / f"{DATABASE}.new"
    unfinished.unlink(missing_ok=True)
    store = SqlAlchemyStore(database_uri(unfinished), (root / ARTIFACTS).as_uri())
    store.engine.dispose()
    # What belonged to a database that was deleted would spoil the new one.
    for suffix in ("-journal", "-wal", "-shm"):
        (root / f"{DATABASE}{suffix}").unlink(missing_ok=True)
    unfinished.replace(database)


def _check_that_it_opens(database: Path) -> None:
    """Try it out: MLflow would try a damaged one again and again, for minutes."""
    with closing(sqlite3.connect(database, timeout=MAX_BUSY_SECONDS)) as connection:
        try:
            connection.execute("PRAGMA schema_version")
        except sqlite3.OperationalError:  # locked, or out of reach
            raise
        except sqlite3.DatabaseError as error:
            raise OSError(
                f"{database} is damaged ({error}); it is made anew where there is none"
            ) from None


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process is inside, and keep others out."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _keep_mlflow_calm() -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"
    # A connection that is kept would go on with a file that was deleted.
    os.environ["MLFLOW_SQLALCHEMYSTORE_POOLCLASS"] = "NullPool"
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for name in ("mlflow.store.db.utils", "mlflow.system_metrics"):
        # The worker says what fails, and says it once.
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def model_from_mlflow(address: str, *, root: Path) -> Iterator[Path]:
    """Yield the directory of a model that MLflow keeps, for as long as it is needed.

    Args:
        address: `runs:/RUN_ID/model`, or `models:/NAME/VERSION` of a registered model.
        root: The project whose database knows it.

    Raises:
        InputError: MLflow knows no such model.
    """
    if not (root / DATABASE).is_file():
        raise InputError(f"cannot look up {address}: there is no {DATABASE} in {root}")
    _keep_mlflow_calm()
    import mlflow

    # A database that cannot be written, or read, is MLflow's to complain of.
    with suppress(OSError, sqlite3.Error):
        correct_locations(root, foreign_locations(root))
    uri = database_uri(root / DATABASE)
    # Registered models are looked up in no other way.
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    is_writable = os.access(root, os.W_OK)
    parent = root / paths.TEMPORARY if is_writable else Path(gettempdir())
    with temporary_directory(parent) as folder:
        try:
            directory = mlflow.artifacts.download_artifacts(
                artifact_uri=address, dst_path=str(folder)
            )
        except Exception as error:  # MLflow's own, the database's, the disk's
            raise InputError(
                f"cannot get {address} from MLflow: {first_line(error)}"
            ) from None
        yield Path(directory)
