"""MLflow: a run on a team's server, or in the SQLite database of the main workspace."""

import getpass
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from toygpt.pipeline import paths
from toygpt.pipeline.lock import locked
from toygpt.pipeline.params import TrackingParams
from toygpt.tracking.mlflow.database import (
    DATABASE,
    configure_mlflow,
    create_database,
)
from toygpt.tracking.mlflow.datasets import log_datasets
from toygpt.tracking.mlflow.destination import mlflow_server, mlflow_uri
from toygpt.tracking.mlflow.experiments import (
    check_usable,
    create_experiment,
    experiment_name,
)
from toygpt.tracking.mlflow.files import copy_files
from toygpt.tracking.mlflow.locations import correct_locations, foreign_locations
from toygpt.tracking.mlflow.logged_model import (
    NAME,
    find_model,
    is_checkpoint,
    is_whole,
    link_results,
    log_model,
    was_deleted,
)
from toygpt.tracking.mlflow.runs import (
    RECORD_TAG,
    answering_as_mlflow,
    find_run,
    points_of,
)
from toygpt.tracking.mlflow.summary import (
    describe,
    description_tags,
    separate_constants,
    tags_of,
)
from toygpt.tracking.points import Known, Point, known_of
from toygpt.tracking.run_info import RunInfo, Status
from toygpt.tracking.tracker import RunNotWantedError

# MLflow refuses more at once.
MAX_PARAMS = 100
MAX_METRICS = 1000
MAX_PARAM_LENGTH = 6000


class MLflowTracker:
    """A run in MLflow: the one of this record, new if there is none."""

    def __init__(self, info: RunInfo, tracking: TrackingParams, root: Path) -> None:
        configure_mlflow()
        from mlflow import MlflowClient

        self._server = mlflow_server(tracking)
        self._database = None if self._server else root / DATABASE
        self._scratch = root / paths.TEMPORARY
        self._params = info.params
        self._monitor: Any = None
        self._has_model_folder = False
        self.known: Known = {}
        self.directories: set[str] = set()
        uri = mlflow_uri(tracking, root)
        lock = locked(root / ".toygpt" / "mlflow.lock")
        with nullcontext() if self._server else lock:
            if self._server is None:
                create_database(root)
                correct_locations(root, foreign_locations(root))
            self._client = MlflowClient(uri)
            with answering_as_mlflow(self._server):
                found, experiments = find_run(self._client, info, tracking)
            if found is None:
                name = experiment_name(info.project)
                if (experiment := experiments.get(name)) is not None:
                    check_usable(experiment, tracking, root)
                    experiment_id = experiment.experiment_id
                else:
                    experiment_id = create_experiment(
                        self._client, name, self._server, root
                    )
                self.run_id = self._create(experiment_id, info)

        if found is not None:
            if found.info.lifecycle_stage == "deleted":
                experiment = self._client.get_experiment(found.info.experiment_id)
                check_usable(experiment, tracking, root)
                raise RunNotWantedError
            self.run_id = found.info.run_id
            if self._server is None:
                _copy_files_of(self.run_id, root)
            self._resume(found, info)
        if info.status == "RUNNING" and _wants_system_metrics():
            from mlflow.system_metrics.system_metrics_monitor import (
                SystemMetricsMonitor,
            )

            self._monitor = SystemMetricsMonitor(
                self.run_id, tracking_uri=uri, resume_logging=found is not None
            )
            self._monitor.start()

    def _create(self, experiment_id: str, info: RunInfo) -> str:
        run = self._client.create_run(
            experiment_id,
            start_time=int(info.started * 1000),
            run_name=_name_of(info),
            tags={
                "mlflow.user": _user(),
                "mlflow.source.type": "LOCAL",
                "mlflow.source.name": "stages/train.py",
                RECORD_TAG: info.id,
                **description_tags({}, describe(info.params, {})),
                **info.tags,
            },
        )
        self._log_params(run.info.run_id, info.params)
        return str(run.info.run_id)

    def _resume(self, run: Any, info: RunInfo) -> None:
        """Continue a run: set its status, and look up what it has."""
        if info.status == "RUNNING":
            self._client.update_run(self.run_id, status="RUNNING", name=_name_of(info))
        # MLflow refuses a second value of a parameter.
        missing = info.params.keys() - run.data.params.keys()
        self._log_params(self.run_id, {key: info.params[key] for key in missing})
        self._look_up(run)

    def _look_up(self, run: Any) -> Any:
        """Look up what a run has, and return its logged model, if there is one."""
        self.known = points_of(self._client, run)
        artifacts = self._client.list_artifacts(self.run_id)
        self.directories = {artifact.path for artifact in artifacts}
        self._has_model_folder = NAME in self.directories
        model = find_model(self._client, run)
        # A model that the user deleted is not logged again.
        if is_whole(model) or was_deleted(run, model):
            self.directories.add(NAME)
        return model

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [
            Param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in params.items()
        ]
        for first in range(0, len(entries), MAX_PARAMS):
            self._client.log_batch(run_id, params=entries[first : first + MAX_PARAMS])

    def log_metadata(self, metadata: Mapping[str, str]) -> None:
        """Set tags: so MLflow calls metadata; the splits' digests name datasets."""
        self._check_database()
        self._set_tags(tags_of(metadata))
        log_datasets(self._client, self.run_id, self._params, metadata)

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        if tags:
            entries = [RunTag(key, value) for key, value in tags.items()]
            self._client.log_batch(self.run_id, tags=entries)

    def log_points(self, points: Sequence[Point]) -> None:
        """Add the points to their curves; results are at step 0, or tags."""
        from mlflow.entities import Metric

        self._check_database()
        rest, constants = separate_constants(points)
        self._set_tags(constants)
        metrics = [
            Metric(name, value, int(point.time * 1000), point.step or 0)
            for point in rest
            for name, value in point.metrics.items()
        ]
        for first in range(0, len(metrics), MAX_METRICS):
            self._client.log_batch(
                self.run_id, metrics=metrics[first : first + MAX_METRICS]
            )
        self.known |= known_of(points)

    def log_directory(self, directory: Path, *, name: str) -> None:
        """Copy the directory into the run's artifacts, or make it its logged model.

        A model that an earlier toyGPT copied into the artifacts stays there: it is
        large, and one copy is enough.
        """
        self._check_database()
        is_logged = (
            name == NAME
            and is_checkpoint(directory)
            and not self._has_model_folder
            and log_model(
                self._client,
                self.run_id,
                directory,
                params=self._params,
                scratch=self._scratch,
            )
        )
        if not is_logged:
            copy = partial(self._client.log_artifact, self.run_id)
            copy_files(directory, copy, folder=name)

    def close(self, status: Status, *, ended: float) -> None:
        """Stop the system metrics, set the status, and sum up the results."""
        self._stop_monitor()
        self._check_database()
        self._client.set_terminated(self.run_id, status, end_time=int(ended * 1000))
        run = self._client.get_run(self.run_id)
        model = self._look_up(run)
        if is_whole(model):
            link_results(self._client, run, model)
        results = {
            name: value for (step, name), value in self.known.items() if step is None
        }
        description = describe(self._params, results | run.data.metrics)
        self._set_tags(description_tags(run.data.tags, description))
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
        if self._database is not None and not self._database.stat().st_size:
            raise FileNotFoundError(f"{self._database} is empty")


def _copy_files_of(run_id: str, root: Path) -> None:
    """Copy a run's files here if they are at another place alone: more may follow."""
    locations = foreign_locations(root)
    of_run = [location for location in locations if run_id in location.old_path.parts]
    correct_locations(root, of_run, copying=True)


def _name_of(info: RunInfo) -> str:
    return info.metadata.get("mlflow.runName", info.name)


def _wants_system_metrics() -> bool:
    wish = os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "")
    return wish.lower() not in ("false", "0")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a user may have no name
        return str(os.getuid())
