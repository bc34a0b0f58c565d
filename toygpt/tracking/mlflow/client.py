"""MLflow's client for a command, and copies of the models that MLflow keeps."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError, first_line
from toygpt.pipeline.files import temporary_directory
from toygpt.pipeline.params import TrackingParams
from toygpt.tracking.mlflow.database import DATABASE, check_that_it_opens
from toygpt.tracking.mlflow.destination import mlflow_server, used_by_default
from toygpt.tracking.mlflow.locations import correct_locations, foreign_locations
from toygpt.tracking.mlflow.runs import answering_as_mlflow


@contextmanager
def mlflow_client(tracking: TrackingParams, root: Path) -> Iterator[Any]:
    """Yield the client of MLflow's server, or of the project's database.

    MLflow's registry looks up the models of runs where no client says, too.

    Raises:
        InputError: There is neither, the database does not open, or, in the block,
            MLflow refuses something or cannot be reached.
    """
    server = mlflow_server(tracking)
    place = f"MLflow at {server}" if server else "MLflow's database"
    with _in_use(tracking, root):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            client = MlflowClient()
        except Exception as error:  # MLflow's own, the database's
            raise InputError(f"{place}: {first_line(error)}") from None
        try:
            with answering_as_mlflow(server):
                yield client
        except (MlflowException, OSError) as error:
            raise InputError(f"{place}: {first_line(error)}") from None


@contextmanager
def model_from_mlflow(
    address: str, *, tracking: TrackingParams, root: Path
) -> Iterator[Path]:
    """Yield a copy of a model that MLflow keeps; it goes with the block.

    Args:
        address: `runs:/RUN_ID/model`, or, of a registered model,
            `models:/NAME/VERSION` or `models:/NAME@ALIAS`.
        tracking: Which MLflow: a server, or the project's database.
        root: The project.

    Raises:
        InputError: MLflow has no such model.
    """
    is_writable = os.access(root, os.W_OK)
    parent = root / paths.TEMPORARY if is_writable else Path(gettempdir())
    with temporary_directory(parent) as folder:
        with _in_use(tracking, root):
            import mlflow

            try:
                directory = mlflow.artifacts.download_artifacts(
                    artifact_uri=address, dst_path=str(folder)
                )
            except Exception as error:  # MLflow's own, the database's, the disk's
                server = mlflow_server(tracking)
                place = f"MLflow at {server}" if server else "MLflow"
                raise InputError(
                    f"cannot get {address} from {place}: {first_line(error)}"
                ) from None
        yield Path(directory)


@contextmanager
def _in_use(tracking: TrackingParams, root: Path) -> Iterator[None]:
    """Make MLflow's functions use the server, or the project's database, in the block.

    Raises:
        InputError: There is neither, or the database is damaged or locked.
    """
    if mlflow_server(tracking) is None:
        database = root / DATABASE
        if not database.is_file():
            raise InputError(
                f"there is no {DATABASE} in {root}, and neither tracking.mlflow in "
                f"{paths.PARAMS} nor MLFLOW_TRACKING_URI names a server"
            )
        try:
            check_that_it_opens(database)
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"MLflow's database: {error}") from None
        # A project that was moved: a database that is read-only may stay as it is.
        with suppress(OSError, sqlite3.Error):
            correct_locations(root, foreign_locations(root))
    with used_by_default(tracking, root):
        yield
