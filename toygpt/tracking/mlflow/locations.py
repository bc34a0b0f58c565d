"""Where MLflow's files are: in the project, wherever that is now.

MLflow writes absolute paths into its database. After the project's folder was moved,
copied or renamed they point to another place, and MLflow would write there.
"""

import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from toygpt.pipeline.files import new_directory
from toygpt.tracking.mlflow.database import (
    ARTIFACTS,
    DATABASE,
    MAX_BUSY_SECONDS,
    open_to_read,
)

# The columns of MLflow 3.17 in which there are locations of files.
LOCATION_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)


@dataclass(frozen=True)
class ForeignLocation:
    """A location in the database that points to the `mlartifacts/` of another place."""

    table: str
    column: str
    row: int
    uri: str
    home: Path  # the other place's `mlartifacts/`
    old_path: Path
    new_path: Path  # of the same files in this project

    @property
    def is_left_behind(self) -> bool:
        """Whether the files exist at the old place alone."""
        return self.old_path.exists() and not self.new_path.exists()


def foreign_locations(root: Path) -> list[ForeignLocation]:
    """Return the locations of this project's files that point to another place.

    A location that the user chose (on S3, in a folder of another name) is not foreign.

    Raises:
        sqlite3.DatabaseError: The database cannot be read.
    """
    here = root.resolve() / ARTIFACTS
    with closing(open_to_read(root / DATABASE)) as connection:
        homes = set(_homes(connection)) - {here}
        return [
            ForeignLocation(
                table, column, row, uri, home, path, here / path.relative_to(home)
            )
            for home in homes
            for table, column in LOCATION_COLUMNS
            for row, uri in connection.execute(f"SELECT rowid, {column} FROM {table}")
            if (path := _local_path(uri)) is not None and path.is_relative_to(home)
        ]


def _homes(connection: sqlite3.Connection) -> Iterator[Path]:
    """Yield each `mlartifacts/` that has files in the places where ours are.

    The files of an experiment are in a folder of its name (or its number, MLflow's
    default), the files of a run in `RUN_ID/artifacts` below that.
    """
    of_experiments = connection.execute(
        "SELECT experiment_id, name, artifact_location, 0 FROM experiments"
    )
    of_runs = connection.execute(
        "SELECT experiment_id, experiments.name, artifact_uri, 2 "
        "FROM runs JOIN experiments USING (experiment_id)"
    )
    for experiment_id, name, location, depth in chain(of_experiments, of_runs):
        path = _local_path(location)
        if path is None or len(path.parents) < depth + 2:
            continue
        folder = (path, *path.parents)[depth]
        if folder.parent.name == ARTIFACTS and folder.name in (
            name,
            str(experiment_id),
        ):
            yield folder.parent


def _local_path(uri: str | None) -> Path | None:
    """Return the path of a location on this machine, as MLflow decodes it."""
    if uri is not None and uri.startswith("file:"):
        return Path(url2pathname(urlsplit(uri).path))
    if uri is not None and uri.startswith("/"):
        return Path(url2pathname(uri))
    return None


def correct_locations(
    root: Path, locations: Iterable[ForeignLocation], *, copying: bool = False
) -> None:
    """Make the database point to this project.

    Args:
        root: The project, whose database it is.
        locations: Of this database.
        copying: Whether files that exist at the old place alone are copied here.
            Without a copy their locations stay. Locations of experiments are corrected
            in any case: new files go there.

    Raises:
        OSError: A file cannot be copied.
        sqlite3.DatabaseError: The database cannot be written.
    """
    changes: dict[tuple[str, str], list[tuple[str, int, str]]] = {}
    for location in locations:
        is_experiment = location.table == "experiments"
        if location.is_left_behind and not is_experiment:
            if not copying:
                continue
            with new_directory(location.new_path) as folder:
                shutil.copytree(location.old_path, folder, dirs_exist_ok=True)
        change = (location.new_path.as_uri(), location.row, location.uri)
        changes.setdefault((location.table, location.column), []).append(change)
    if not changes:
        return
    connection = sqlite3.connect(root / DATABASE, timeout=MAX_BUSY_SECONDS)
    with closing(connection), connection:  # all of it or nothing
        for (table, column), rows in changes.items():
            connection.executemany(
                f"UPDATE {table} SET {column} = ? WHERE rowid = ? AND {column} = ?",
                rows,
            )
