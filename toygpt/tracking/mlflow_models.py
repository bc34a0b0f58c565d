"""Reach the models that MLflow keeps."""

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
from toygpt.tracking.mlflow_database import DATABASE
from toygpt.tracking.mlflow_destination import (
    mlflow_server,
    mlflow_uri,
    used_by_default,
)
from toygpt.tracking.mlflow_locations import correct_locations, foreign_locations


@contextmanager
def mlflow_client(tracking: TrackingParams, root: Path) -> Iterator[Any]:
    """Yield the client of MLflow's server, or of the project's database.

    MLflow's registry looks up the models of runs where no client says, too.

    Raises:
        InputError: There is neither.
    """
    if mlflow_server(tracking) is None and not (root / DATABASE).is_file():
        raise InputError(f"there is no {DATABASE} in {root}: nothing was trained yet")
    with used_by_default(mlflow_uri(tracking, root)):
        from mlflow import MlflowClient

        yield MlflowClient()


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
    server = mlflow_server(tracking)
    if server is None:
        if not (root / DATABASE).is_file():
            raise InputError(
                f"cannot look up {address}: there is no {DATABASE} in {root}"
            )
        # MLflow itself reports a database that cannot be written or read.
        with suppress(OSError, sqlite3.Error):
            correct_locations(root, foreign_locations(root))
    is_writable = os.access(root, os.W_OK)
    parent = root / paths.TEMPORARY if is_writable else Path(gettempdir())
    with temporary_directory(parent) as folder:
        with used_by_default(mlflow_uri(tracking, root)):
            import mlflow

            try:
                directory = mlflow.artifacts.download_artifacts(
                    artifact_uri=address, dst_path=str(folder)
                )
            except Exception as error:  # MLflow's own, the database's, the disk's
                place = f"MLflow at {server}" if server else "MLflow"
                raise InputError(
                    f"cannot get {address} from {place}: {first_line(error)}"
                ) from None
        yield Path(directory)
