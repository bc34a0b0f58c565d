"""The experiments of MLflow that runs are in."""

import os
from pathlib import Path
from typing import Any

from toygpt.pipeline.params import TrackingParams
from toygpt.tracking.mlflow.database import ARTIFACTS, DATABASE
from toygpt.tracking.mlflow.destination import mlflow_server
from toygpt.tracking.tracker import RunNotWantedError, UserActionNeededError

# The beginning of locations whose files MLflow's server keeps.
SERVER_SCHEME = "mlflow-artifacts:"


def experiment_name(project: str) -> str:
    """Return the experiment of new runs: MLFLOW_EXPERIMENT_NAME, or the project."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or project


def all_experiments(client: Any) -> dict[str, Any]:
    """Return all experiments, deleted or not, by their names."""
    from mlflow.entities import ViewType

    found: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_experiments(ViewType.ALL, page_token=token)
        found |= {experiment.name: experiment for experiment in page}
        if not (token := page.token):
            return found


def create_experiment(client: Any, name: str, server: str | None, root: Path) -> str:
    """Create it; a server decides itself where its files are."""
    from mlflow import MlflowException

    local = None if server else (root / ARTIFACTS / name).as_uri()
    try:
        return str(client.create_experiment(name, local))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        # Another run has created it at the same time.
        return str(client.get_experiment_by_name(name).experiment_id)


def check_usable(experiment: Any, tracking: TrackingParams, root: Path) -> None:
    """Check that an experiment accepts runs.

    Raises:
        RunNotWantedError: It does not, and the user chose another.
        UserActionNeededError: It does not: it was deleted, or it is in the
            project's database, and its files are MLflow's server's.
    """
    server, wanted = mlflow_server(tracking), experiment_name(tracking.project)
    is_deleted = experiment.lifecycle_stage == "deleted"
    is_of_server = server is None and experiment.artifact_location.startswith(
        SERVER_SCHEME
    )
    if (is_deleted or is_of_server) and experiment.name != wanted:
        raise RunNotWantedError
    if is_of_server:
        raise UserActionNeededError(
            f"its experiment {experiment.name} was created by MLflow's server, "
            f"which keeps the files: choose another tracking.project in params.yaml"
        )
    if is_deleted:
        command = restore_command(experiment.experiment_id, server)
        raise UserActionNeededError(
            f"its experiment {experiment.name} was deleted. To restore it, run "
            f"`{command}` in {root}, then `python . track`; or choose another "
            f"tracking.project in params.yaml"
        )


def restore_command(experiment_id: str | int, server: str | None = None) -> str:
    """Return the command that restores a deleted experiment, in the project's folder.

    It names the database, or the server: MLflow has no other way to know it.
    """
    return (
        f"MLFLOW_TRACKING_URI={server or f'sqlite:///{DATABASE}'} "
        f"mlflow experiments restore --experiment-id {experiment_id}"
    )
