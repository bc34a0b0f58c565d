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
from toygpt.tracking.mlflow_database import DATABASE, configure_mlflow, database_uri
from toygpt.tracking.mlflow_locations import correct_locations, foreign_locations


def open_client(root: Path) -> Any:
    """Return MLflow's client for the database of a project.

    Raises:
        InputError: There is no database.
    """
    if not (root / DATABASE).is_file():
        raise InputError(f"there is no {DATABASE} in {root}: nothing was trained yet")
    configure_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(database_uri(root / DATABASE))


@contextmanager
def model_from_mlflow(address: str, *, root: Path) -> Iterator[Path]:
    """Yield a copy of a model that MLflow keeps; it goes with the block.

    Args:
        address: `runs:/RUN_ID/model`, or, of a registered model,
            `models:/NAME/VERSION` or `models:/NAME@ALIAS`.
        root: The project whose database has it.

    Raises:
        InputError: MLflow has no such model.
    """
    if not (root / DATABASE).is_file():
        raise InputError(f"cannot look up {address}: there is no {DATABASE} in {root}")
    configure_mlflow()
    import mlflow

    # MLflow itself reports a database that cannot be written or read.
    with suppress(OSError, sqlite3.Error):
        correct_locations(root, foreign_locations(root))
    uri = database_uri(root / DATABASE)
    # The only way by which MLflow looks up registered models.
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
