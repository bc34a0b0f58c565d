"""MLflow: a run in the SQLite database of the main workspace."""

import getpass
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toygpt.pipeline.lock import locked
from toygpt.pipeline.params import TrackingParams
from toygpt.tracking.mlflow_database import (
    ARTIFACTS,
    DATABASE,
    configure_mlflow,
    create_database,
    database_uri,
)
from toygpt.tracking.mlflow_files import log_files
from toygpt.tracking.mlflow_locations import correct_locations, foreign_locations
from toygpt.tracking.points import Known, Point, known_of
from toygpt.tracking.run_info import RunInfo, Status
from toygpt.tracking.tracker import RunNotWantedError, UserActionNeededError

# The tag by which a run is found again, even if its id was never noted.
RECORD_TAG = "toygpt.run"
# The beginning of locations whose files MLflow's server keeps.
SERVER_SCHEME = "mlflow-artifacts:"
# MLflow refuses more at once.
MAX_PARAMS = 100
MAX_METRICS = 1000
MAX_PARAM_LENGTH = 6000


class MLflowTracker:
    """A run in MLflow: the one of this record, new if there is none."""

    def __init__(self, info: RunInfo, tracking: TrackingParams, root: Path) -> None:
        configure_mlflow()
        from mlflow import MlflowClient

        self._database = root / DATABASE
        self._monitor: Any = None
        self.known: Known = {}
        self.directories: set[str] = set()
        uri = database_uri(self._database)
        with locked(root / ".toygpt" / "mlflow.lock"):
            create_database(root)
            correct_locations(root, foreign_locations(root))
            self._client = MlflowClient(uri)
            experiment_id = self._experiment_id(info.project, tracking.project, root)

        found = _find_run(self._client, experiment_id, info)
        if found is not None:
            if found.info.lifecycle_stage == "deleted":
                raise RunNotWantedError
            self.run_id = found.info.run_id
            _copy_files_of(self.run_id, root)
            self._resume(found, info)
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
        """Return the experiment's id; its artifacts are in `root`.

        Raises:
            RunNotWantedError: The experiment accepts no runs, and the user chose
                another.
            UserActionNeededError: The experiment accepts no runs: it was deleted, or
                its files are MLflow's server's.
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

    def _resume(self, run: Any, info: RunInfo) -> None:
        """Continue a run: set its status, and look up what it has."""
        if info.status == "RUNNING":
            self._client.update_run(self.run_id, status="RUNNING", name=info.name)
        # MLflow refuses a second value of a parameter.
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
        """Set tags: so MLflow calls metadata."""
        from mlflow.entities import RunTag

        self._check_database()
        names = {"git.commit": "mlflow.source.git.commit"}
        tags = [RunTag(names.get(key, key), value) for key, value in metadata.items()]
        self._client.log_batch(self.run_id, tags=tags)

    def log_points(self, points: Sequence[Point]) -> None:
        """Add the points to their curves; results are at step 0."""
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
        log_files(self._client, self.run_id, directory, name=name)

    def close(self, status: Status, *, ended: float) -> None:
        """Stop the system metrics, and set the status."""
        self._stop_monitor()
        self._check_database()
        self._client.set_terminated(self.run_id, status, end_time=int(ended * 1000))
        self._look_up(self._client.get_run(self.run_id))
        self._check_database()

    def abandon(self) -> None:
        """Stop the system metrics."""
        self._stop_monitor()

    def _stop_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None

    def _check_database(self) -> None:
        """Notice a deleted database: SQLite would create an empty one.

        Raises:
            FileNotFoundError: It was deleted.
        """
        if not self._database.stat().st_size:
            raise FileNotFoundError(f"{self._database} is empty")


def restore_command(experiment_id: str | int) -> str:
    """Return the command that restores a deleted experiment, in the project's folder.

    It names the database, which otherwise depends on MLFLOW_TRACKING_URI, or mlruns/.
    """
    return (
        f"MLFLOW_TRACKING_URI=sqlite:///{DATABASE} "
        f"mlflow experiments restore --experiment-id {experiment_id}"
    )


def _copy_files_of(run_id: str, root: Path) -> None:
    """Copy a run's files here if they are at another place alone: more may follow."""
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
    """Return all points of a run, but those of MLflow's own system metrics."""
    known: Known = {}
    for name in run.data.metrics:
        if name.startswith("system/"):
            continue
        for metric in client.get_metric_history(run.info.run_id, name):
            known[metric.step, name] = metric.value
            if metric.step == 0:  # results are at step 0
                known[None, name] = metric.value
    return known


def points_in_mlflow(info: RunInfo, root: Path) -> Known | None:
    """Return the points that MLflow has of a run; None if it does not have the run."""
    if not (root / DATABASE).is_file():
        return None
    configure_mlflow()
    try:
        from mlflow import MlflowClient

        client = MlflowClient(database_uri(root / DATABASE))
        experiment = client.get_experiment_by_name(info.project)
        run = experiment and _find_run(client, experiment.experiment_id, info)
        return _points_of(client, run) if run else None
    except Exception:  # the tracker itself will report what is wrong
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a user may have no name
        return str(os.getuid())
