"""Whether MLflow and W&B have all runs, and can be synced."""

import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from toygpt.doctor.finding import Finding, Line, number_of, readable_size
from toygpt.doctor.leftovers import size_of
from toygpt.doctor.machine import valid_params
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import TrackingParams
from toygpt.tracking.backfill import unsynced_results, unsynced_runs
from toygpt.tracking.mlflow.database import ARTIFACTS, DATABASE, open_to_read
from toygpt.tracking.mlflow.experiments import (
    SERVER_SCHEME,
    experiment_name,
    restore_command,
)
from toygpt.tracking.mlflow.locations import correct_locations, foreign_locations
from toygpt.tracking.record import Record
from toygpt.tracking.run_info import runs_folder, wanted_trackers
from toygpt.tracking.settings import with_environment
from toygpt.tracking.sync import bring_up_to_date


def check_trackers(root: Path) -> Iterator[Line]:
    """Check that MLflow and W&B have all runs of our records, and can be synced."""
    yield from _servers()
    records = []
    folder = runs_folder(root)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            records.append(Record(path))
        except InputError as error:
            yield Finding(str(error), _put_aside(path.relative_to(root)))
    params = valid_params(root)
    try:
        tracking = with_environment(params.tracking) if params else None
    except InputError as error:
        (variable,) = re.findall("(?:MLFLOW|WANDB)_[A-Z_]+", str(error))[:1]
        yield Finding(str(error), f"unset {variable}")
        return
    wanted = wanted_trackers(tracking) if tracking else ["mlflow"]
    if not any(name.startswith("mlflow:") for name in wanted):  # no server
        yield from _database(root, records)
        yield from _locations(root)
    if tracking is None:
        yield "which trackers are wanted is not known: see the parameters"
        return
    if "mlflow" in wanted and (
        unusable := _unusable_experiment(root, experiment_name(tracking.project))
    ):
        yield unusable
        tracking = tracking.without(["mlflow"])  # nothing can be synced before that
        wanted = wanted_trackers(tracking)
    unsynced = [
        record
        for record in records
        if not record.is_busy()
        and (
            record.info.status == "RUNNING"  # its process was killed
            or record.unsynced(wanted)
        )
    ]
    if unsynced:
        names = ", ".join(record.info.name for record in unsynced)
        yield Finding(
            f"{number_of(len(unsynced), 'run')} that the trackers do not know all of: "
            f"{names}",
            "python . track",
            partial(_sync, root, tracking),
        )
    elif lacking := unsynced_results(root, tracking):
        name, trackers = lacking
        yield Finding(
            f"{' and '.join(trackers)}: not all results of the run {name}",
            "python . track",
        )
    elif wanted:
        shown = [it for it in records if set(wanted) <= set(it.info.trackers)]
        verb = "has" if len(wanted) == 1 else "have"
        yield (
            f"{number_of(len(shown), 'run')}, and {' and '.join(wanted)} {verb} all "
            f"of {'it' if len(shown) == 1 else 'them'}"
        )
        if len(shown) < len(records):
            others = number_of(len(records) - len(shown), "run")
            yield f"{others} of other trackers: `python . track` logs them there, too"


def _sync(root: Path, tracking: TrackingParams) -> None:
    """Bring the trackers up to date.

    Raises:
        OSError: A tracker still lacks something.
    """
    bring_up_to_date(tracking, root)
    if unsynced := [
        f"{name} ({tracker})" for tracker, name in unsynced_runs(root, tracking)
    ]:
        raise OSError(f"not synced: {', '.join(unsynced)}")


def _servers() -> Iterator[Finding]:
    """Check that `mlflow ui` would not be open to others."""
    for variable, opened in (
        ("MLFLOW_HOST", "0.0.0.0"),
        ("MLFLOW_SERVER_ALLOWED_HOSTS", "*"),
    ):
        if opened in os.environ.get(variable, "").split(","):
            yield Finding(
                f"{variable}={opened}: any user who reaches this machine may read and "
                f"change the runs while `mlflow ui` is open",
                f"unset {variable}",
            )


def _database(root: Path, records: Sequence[Record]) -> Iterator[Line]:
    """Check that MLflow's database is whole, and there if it had runs."""
    name = DATABASE
    database = root / name
    if not database.is_file() or not database.stat().st_size:
        noted = [record.info.synced.get("mlflow") for record in records]
        if any(it is not None and (it.id or not it.is_wanted) for it in noted):
            yield Finding(f"{name} is gone, and had runs", "python . track --rebuild")
        return
    try:
        # Read-only: not even a damaged one is changed.
        with closing(open_to_read(database)) as connection:
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


def _locations(root: Path) -> Iterator[Finding]:
    """Check that MLflow's database points to the files of this project.

    It does not after the project's folder was moved, copied or renamed.
    """
    try:
        locations = foreign_locations(root)
    except sqlite3.Error:  # `_database` reports what is wrong with it
        return
    if not locations:
        return
    homes = ", ".join(sorted({str(location.home) for location in locations}))
    problem = (
        f"{DATABASE} points to {homes}: this project, which has its own {ARTIFACTS}/, "
        f"was moved or copied"
    )
    left_behind = {
        location.old_path
        for location in locations
        if location.table == "runs" and location.is_left_behind
    }
    if left_behind:
        problem += (
            f". The files of {number_of(len(left_behind), 'run')} are there alone, "
            f"and will be copied: {readable_size(sum(map(size_of, left_behind)))}"
        )
    yield Finding(
        problem,
        "python . doctor --fix",
        partial(correct_locations, root, locations, copying=True),
    )


def _unusable_experiment(root: Path, project: str) -> Finding | None:
    """Return what the user has to do if the experiment accepts no new runs."""
    query = (
        "SELECT experiment_id, lifecycle_stage = 'deleted', artifact_location "
        "FROM experiments WHERE name = ?"
    )
    try:
        with closing(open_to_read(root / DATABASE)) as connection:
            row = connection.execute(query, [project]).fetchone()
    except sqlite3.Error:  # `_database` reports what is wrong with it
        return None
    if row is None:
        return None
    experiment_id, is_deleted, location = row
    if (location or "").startswith(SERVER_SCHEME):
        return Finding(
            f"MLflow logs nothing: its experiment {project} was created by MLflow's "
            f"server, which keeps the files. Choose another tracking.project",
            f"${{EDITOR:-vi}} {paths.PARAMS}",
        )
    if is_deleted:
        return Finding(
            f"MLflow logs nothing: its experiment {project} was deleted. Restore it, "
            f"or choose another tracking.project in {paths.PARAMS}",
            f"{restore_command(experiment_id)} && python . track",
        )
    return None


def _put_aside(path: Path | str) -> str:
    return f"mkdir -p .toygpt/damaged && mv {path} .toygpt/damaged/"
