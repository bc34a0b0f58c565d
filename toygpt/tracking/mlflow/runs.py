"""Find the run of a record in MLflow, and what MLflow has of it."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from toygpt.pipeline.params import TrackingParams
from toygpt.tracking.mlflow.database import DATABASE, configure_mlflow
from toygpt.tracking.mlflow.destination import (
    mlflow_server,
    mlflow_uri,
    tracker_name,
)
from toygpt.tracking.mlflow.experiments import all_experiments
from toygpt.tracking.mlflow.files import MAX_REQUESTS
from toygpt.tracking.mlflow.summary import known_constants
from toygpt.tracking.points import Known
from toygpt.tracking.run_info import RunInfo

# The tag by which a run is found again, even if its id was never noted.
RECORD_TAG = "toygpt.run"


def find_run(
    client: Any, info: RunInfo, tracking: TrackingParams
) -> tuple[Any, dict[str, Any]]:
    """Return the run of a record, deleted or not, and the experiments searched for it.

    The run is None if MLflow does not have it. If its id is noted, nothing is searched.
    """
    if (run := _noted_run(client, info, tracking)) is not None:
        return run, {}
    experiments = all_experiments(client)
    return _tagged_run(client, experiments, info), experiments


def _noted_run(client: Any, info: RunInfo, tracking: TrackingParams) -> Any:
    """Return the run whose id is noted for this server or database, if it has it."""
    from mlflow import MlflowException

    noted = info.synced.get(tracker_name(tracking))
    if noted is None or not noted.id:
        return None
    try:
        run = client.get_run(noted.id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.data.tags.get(RECORD_TAG) == info.id else None


def _tagged_run(client: Any, experiments: Mapping[str, Any], info: RunInfo) -> Any:
    """Return the run of a record, deleted or not, if one of the experiments has it."""
    from mlflow.entities import ViewType

    if not experiments:
        return None
    found = client.search_runs(
        [experiment.experiment_id for experiment in experiments.values()],
        filter_string=f"tags.`{RECORD_TAG}` = '{info.id}'",
        run_view_type=ViewType.ALL,
    )
    return found[0] if found else None


def points_of(client: Any, run: Any) -> Known:
    """Return all values of a run, but those of MLflow's own system metrics."""
    names = [name for name in run.data.metrics if not name.startswith("system/")]
    history_of = partial(client.get_metric_history, run.info.run_id)
    known = known_constants(run.data.tags)
    with ThreadPoolExecutor(MAX_REQUESTS) as pool:
        for name, history in zip(names, pool.map(history_of, names), strict=True):
            for metric in history:
                known[metric.step, name] = metric.value
                if metric.step == 0:  # results are at step 0
                    known[None, name] = metric.value
    return known


def points_in_mlflow(
    info: RunInfo, tracking: TrackingParams, root: Path
) -> Known | None:
    """Return the points that MLflow has of a run; None if it does not have the run.

    Raises:
        Exception: MLflow cannot be asked; its errors are many.
    """
    if mlflow_server(tracking) is None and not (root / DATABASE).is_file():
        return None
    configure_mlflow()
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_uri(tracking, root))
    run, _ = find_run(client, info, tracking)
    return points_of(client, run) if run else None


@contextmanager
def answering_as_mlflow(server: str | None) -> Iterator[None]:
    """Replace MLflow's errors about a server of another kind by one line.

    Raises:
        OSError: It is a web page, or another service.
    """
    from mlflow import MlflowException
    from mlflow.exceptions import RestException

    try:
        yield
    except MlflowException as error:
        is_of_another = (
            "error_code" not in error.json
            if isinstance(error, RestException)
            else error.error_code == "ENDPOINT_NOT_FOUND" or "valid JSON" in str(error)
        )
        if server is not None and is_of_another:
            raise OSError(f"{server} does not answer as a server of MLflow") from None
        raise
