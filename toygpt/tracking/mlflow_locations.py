"""Where MLflow's database and files are: in the project, wherever that is now.

MLflow writes absolute paths into its database. After the project's folder was moved,
copied or renamed they point to another place, and MLflow would write there.
"""

from __future__ import annotations

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

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
# How long another process may keep the database to itself before that is a failure.
MAX_BUSY_SECONDS = 5.0
# The columns of MLflow 3.17 in which there are locations of files.
LOCATION_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)


def database_uri(database: Path) -> str:
    """Return the URI by which MLflow opens a database, however its folder is called.

    SQLAlchemy decodes `%20` and takes what follows a `?` for options, so it also has to
    encode them. With `sqlite:///`, which names no driver, MLflow would create the
    folders of the encoded path.

    Raises:
        OSError: The path is not in UTF-8, as SQLite requires.
    """
    from sqlalchemy.engine import URL

    try:
        url = URL.create("sqlite+pysqlite", database=str(database))
        return url.render_as_string()
    except UnicodeEncodeError:
        raise OSError(
            f"its database needs a path in UTF-8, got {str(database)!r}"
        ) from None


def open_to_read(database: Path) -> sqlite3.Connection:
    """Open a database that is not changed by that, nor created.

    Raises:
        sqlite3.OperationalError: There is none.
    """
    uri = f"{database.resolve().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, timeout=MAX_BUSY_SECONDS)


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
    """Yield each `mlartifacts/` in which there are files as ours are there.

    Those of an experiment are in a folder of its name (or number: MLflow's default),
    those of a run in `RUN_ID/artifacts` below that.
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
    """Let the database point to this project.

    Args:
        root: The project, whose database it is.
        locations: Of this database.
        copying: Whether files that exist at the old place alone are copied here. Else
            their locations stay as they are, but for those of experiments: that is
            where new files go.

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
