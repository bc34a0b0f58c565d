"""MLflow's database: a SQLite file in the main workspace, created whole or not."""

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
# How long another process may lock the database before that is a failure.
MAX_BUSY_SECONDS = 5.0
# Of a failure `Connection` warns, once; uv's environments have no pip to find.
NOISY = ("mlflow.store.db.utils", "mlflow.system_metrics", "mlflow.utils.environment")
# Unless the user has set them. The second one: without an answer, or a byte of it.
HTTP_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def database_uri(database: Path) -> str:
    """Return the URI by which MLflow opens a database in a folder of any name.

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


def create_database(root: Path) -> None:
    """Create MLflow's tables aside, and put the finished database in place.

    MLflow itself creates them without a lock: two first runs at once crash, and one
    that is killed meanwhile leaves a database that nothing can open. The caller
    holds a lock.

    Raises:
        OSError: The database is damaged.
    """
    database = root / DATABASE
    # A process that had a deleted one open may have left an empty one there.
    if database.exists() and database.stat().st_size:
        check_that_it_opens(database)
        return
    unfinished = root / ".toygpt" / f"{DATABASE}.new"
    unfinished.unlink(missing_ok=True)
    _create_tables(unfinished, root)
    # Remains of a deleted database would spoil the new one.
    for suffix in ("-journal", "-wal", "-shm"):
        (root / f"{DATABASE}{suffix}").unlink(missing_ok=True)
    unfinished.replace(database)


def _create_tables(database: Path, root: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(database_uri(database), (root / ARTIFACTS).as_uri())
    store.engine.dispose()


def check_that_it_opens(database: Path) -> None:
    """Open it once: MLflow would try a damaged one again and again, for minutes.

    Raises:
        OSError: It is damaged.
        sqlite3.OperationalError: It is locked, or out of reach.
    """
    with closing(sqlite3.connect(database, timeout=MAX_BUSY_SECONDS)) as connection:
        try:
            connection.execute("PRAGMA schema_version")
        except sqlite3.OperationalError:  # locked, or out of reach
            raise
        except sqlite3.DatabaseError as error:
            raise OSError(
                f"{database} is damaged ({error}); without it, a new one is created"
            ) from None


def configure_mlflow() -> None:
    """Set what MLflow reads: no telemetry, no noise, no second try of a request.

    MLflow tries a request to a server 7 times, for 4 minutes, and one whose answer was
    lost may have made a run. `Connection` tries again, after it asked what is there.
    """
    for name, value in HTTP_SETTINGS.items():
        if not os.environ.get(name):
            os.environ[name] = value
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it was imported before
    # MLflow would copy the project's uv.lock into each logged model.
    os.environ["MLFLOW_UV_AUTO_DETECT"] = "false"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    # A connection from a pool would write to a file that was deleted meanwhile.
    os.environ["MLFLOW_SQLALCHEMYSTORE_POOLCLASS"] = "NullPool"
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
