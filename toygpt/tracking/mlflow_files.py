"""MLflow's copies of directories: replaced whole, read-only or not."""

from pathlib import Path
from typing import Any


def log_files(client: Any, run_id: str, directory: Path, *, name: str) -> None:
    """Copy a directory into a run's artifacts, over what an interrupted copy has left.

    A result that DVC has restored is read-only, and MLflow's copy of it as well: of all
    users, root alone could write over it.
    """
    try:
        client.log_artifacts(run_id, str(directory), name)
    except PermissionError:
        from mlflow.store.artifact.artifact_repository_registry import (
            get_artifact_repository,
        )

        artifacts = get_artifact_repository(client.get_run(run_id).info.artifact_uri)
        artifacts.delete_artifacts(name)
        client.log_artifacts(run_id, str(directory), name)
