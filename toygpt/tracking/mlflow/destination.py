"""Which MLflow logs the runs: a team's server, or the database of this project."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import TrackingParams, server_address
from toygpt.pipeline.variables import changed_variables
from toygpt.tracking.mlflow.database import DATABASE, configure_mlflow, database_uri

# MLflow's functions that take no client leave there what they were given.
VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


def with_mlflow_environment(tracking: TrackingParams) -> TrackingParams:
    """Return the parameters with MLflow's server as the environment has it.

    Raises:
        InputError: MLFLOW_TRACKING_URI names something else.
    """
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address or not tracking.mlflow:
        return tracking
    try:
        return tracking.model_copy(update={"mlflow": server_address(address)})
    except ValueError as error:
        raise InputError(f"the variable MLFLOW_TRACKING_URI: {error}") from None


def with_mlflow_to_read(tracking: TrackingParams) -> TrackingParams:
    """Return the same, even if no run is logged to MLflow: models can be read from it.

    Raises:
        InputError: MLFLOW_TRACKING_URI names something else.
    """
    changes = {"mlflow": tracking.mlflow or True}
    return with_mlflow_environment(tracking.model_copy(update=changes))


def mlflow_server(tracking: TrackingParams) -> str | None:
    """Return the address of a server; None if this project's database is used."""
    return tracking.mlflow if isinstance(tracking.mlflow, str) else None


def tracker_name(tracking: TrackingParams) -> str:
    """Return the name by which records note what this MLflow has."""
    server = mlflow_server(tracking)
    return f"mlflow:{server}" if server else "mlflow"


def mlflow_uri(tracking: TrackingParams, root: Path) -> str:
    """Return the address by which MLflow's clients find the server or the database.

    Raises:
        OSError: The database's path is not in UTF-8.
    """
    return mlflow_server(tracking) or database_uri(root / DATABASE)


@contextmanager
def used_by_default(tracking: TrackingParams, root: Path) -> Iterator[None]:
    """Make MLflow's functions that take no client use this MLflow, in the block.

    They find registered models there, too; with a server, the user may name another
    place for those (MLFLOW_REGISTRY_URI).
    """
    configure_mlflow()
    import mlflow

    uri = mlflow_uri(tracking, root)
    of_team = os.environ.get("MLFLOW_REGISTRY_URI") if mlflow_server(tracking) else None
    with changed_variables(dict.fromkeys(VARIABLES)):
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(of_team or uri)
        try:
            yield
        finally:
            set_uri: Any = mlflow.set_tracking_uri
            set_uri(None)
            mlflow.set_registry_uri("")
