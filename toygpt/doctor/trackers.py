"""Whether MLflow and W&B can know all that our records know."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from toygpt.doctor.finding import Finding, Line, number_of, readable_size
from toygpt.doctor.machine import valid_params
from toygpt.errors import InputError
from toygpt.training.tracking.record import Record, runs_folder
from toygpt.training.tracking.run import bring_up_to_date, wanted_trackers


def check_trackers(root: Path) -> Iterator[Line]:
    """See whether MLflow and W&B can know all that our records know."""
    yield from _servers()
    records = []
    folder = runs_folder(root)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            records.append(Record(path))
        except InputError as error:
            yield Finding(str(error), _put_aside(path.relative_to(root)))
    yield from _database(root, records)
    params = valid_params(root)
    if params is None:
        yield "who is to be told is not known: see the parameters"
        return
    wanted = wanted_trackers(params.tracking)
    untold = [
        record
        for record in records
        if not record.is_being_written()
        and (
            record.info.status == "RUNNING"  # it ended without a word
            or record.info.untold(wanted, len(record.points))
        )
    ]
    if untold:
        names = ", ".join(record.info.name for record in untold)
        yield Finding(
            f"{number_of(len(untold), 'run')} that the trackers do not know all of: "
            f"{names}",
            "python . track",
            partial(bring_up_to_date, params.tracking, root),
        )
    else:
        yield f"{number_of(len(records), 'run')}, and the trackers know all of them"


def _servers() -> Iterator[Finding]:
    """See whether `mlflow ui` would be open to others."""
    for variable, opened in (
        ("MLFLOW_HOST", "0.0.0.0"),
        ("MLFLOW_SERVER_ALLOWED_HOSTS", "*"),
    ):
        if opened in os.environ.get(variable, "").split(","):
            yield Finding(
                f"{variable}={opened}: whoever reaches this machine may read and "
                f"change the runs while `mlflow ui` is open",
                f"unset {variable}",
            )


def _database(root: Path, records: Sequence[Record]) -> Iterator[Line]:
    """See whether MLflow's database is there if it was, and whole."""
    name = "mlflow.db"
    database = root / name
    if not database.is_file() or not database.stat().st_size:
        if any(told for record in records if (told := record.info.told.get("mlflow"))):
            yield Finding(f"{name} is gone, and had runs", "python . track --rebuild")
        return
    try:
        # Read-only: not even a damaged one is changed.
        uri = f"{database.as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        kind = (error.sqlite_errorcode or 0) & 0xFF
        if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            yield f"{name} is being written"
            return
        if kind == sqlite3.SQLITE_READONLY:
            yield f"{name} is in the middle of a change, which its next writer undoes"
            return
        answer = str(error)
    if answer == "ok":
        yield f"{name} is whole, {readable_size(database.stat().st_size)}"
    else:
        yield Finding(
            f"{name} is damaged: {answer}",
            f"{_put_aside(f'{name}*')} && python . track --rebuild",
        )


def _put_aside(path: Path | str) -> str:
    return f"mkdir -p .toygpt/damaged && mv {path} .toygpt/damaged/"
