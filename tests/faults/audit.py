"""Compare what the trackers have with our own records, value by value."""

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toygpt.tracking.mlflow.database import DATABASE
from toygpt.tracking.mlflow.runs import RECORD_TAG
from toygpt.tracking.mlflow.summary import known_constants
from toygpt.tracking.points import known_of
from toygpt.tracking.record import Record
from toygpt.tracking.run_info import all_infos
from toygpt.tracking.wandb.files import read_runs
from toygpt.tracking.wandb.tracker import EXIT_CODES


@dataclass
class Seen:
    """A run as a tracker has it, without its system metrics."""

    name: str = ""
    status: object = None  # of W&B, the exit code
    results: dict[str, Any] = field(default_factory=dict)
    points: list[tuple[int, str, float]] = field(default_factory=list)


def audit(root: Path) -> list[str]:
    """Return every disagreement between our records, MLflow and W&B."""
    records = {info.id: Record(folder) for folder, info in all_infos(root)}
    found = []
    for tracker, runs in (("mlflow", in_mlflow(root)), ("wandb", in_wandb(root))):
        for run_id in sorted(runs.keys() - records.keys()):
            found.append(f"{tracker} has a run without a record: {run_id}")
        for run_id, record in records.items():
            if tracker in record.info.trackers:
                seen = runs.get(run_id, [])
                problems = (
                    differences(tracker, record, *seen)
                    if len(seen) == 1
                    else [f"{tracker} has {len(seen)} runs of it"]
                )
                found += [f"{record.info.name} ({run_id}): {text}" for text in problems]
    return found


def in_mlflow(root: Path) -> dict[str, list[Seen]]:
    """Return all runs by the id of their record; each record should have one.

    They are read without MLflow: it keeps a file open that a test may replace.
    """
    database = root / DATABASE
    if not database.exists():
        return {}
    runs: dict[str, list[Seen]] = {}
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        found = connection.execute(
            "SELECT runs.run_uuid, coalesce(value, 'none'), name, status FROM runs "
            "LEFT JOIN tags ON tags.run_uuid = runs.run_uuid AND key = ? "
            "WHERE lifecycle_stage = 'active'",
            [RECORD_TAG],
        )
        for mlflow_id, run_id, name, status in found.fetchall():
            points = connection.execute(
                "SELECT step, key, value FROM metrics "
                "WHERE run_uuid = ? AND key NOT LIKE 'system/%' ORDER BY timestamp",
                [mlflow_id],
            ).fetchall()
            tags = connection.execute(
                "SELECT key, value FROM tags WHERE run_uuid = ?", [mlflow_id]
            ).fetchall()
            # MLflow keeps results at step 0, where no curve has a point; the last one
            # counts. Some are tags.
            results = {key: value for step, key, value in points if step == 0}
            results |= {name: v for (_, name), v in known_constants(dict(tags)).items()}
            curves = [point for point in points if point[0] != 0]
            runs.setdefault(run_id, []).append(Seen(name, status, results, curves))
    return runs


def in_wandb(root: Path) -> dict[str, list[Seen]]:
    """Return each run, put together from one file for each time that it was opened.

    If W&B was killed at once, it wrote nothing, not even the run's id.
    """
    runs: dict[str, list[Seen]] = {}
    for part in read_runs(root):  # the oldest first
        if part.run_id:
            (seen,) = runs.setdefault(part.run_id, [Seen()])
            seen.name, seen.status = part.name, part.exit_code
            seen.results |= part.summary
            for row in part.history:
                step = row["step"]
                seen.points += [(step, n, v) for n, v in row.items() if n != "step"]
    return runs


def differences(tracker: str, record: Record, seen: Seen) -> list[str]:
    """Return what differs; each point must be there exactly once, with its value."""
    known = known_of(record.points)
    curves = {key: value for key, value in known.items() if key[0] is not None}
    results: Mapping[str, Any] = {
        n: v for (step, n), v in known.items() if step is None
    }
    status: object = record.info.status
    if tracker == "wandb":  # its summary has the ends of all curves as well
        status = EXIT_CODES.get(record.info.status)
        seen.results = {n: v for n, v in seen.results.items() if n in results}
    times = Counter((step, name) for step, name, _ in seen.points)
    return [
        *(
            f"{tracker}'s {what}: {got!r} instead of {expected!r}"
            for what, expected, got in (
                ("name", record.info.name, seen.name),
                ("status", status, seen.status),
                ("results", results, seen.results),
            )
            if got != expected
        ),
        *(f"{tracker} lacks {key}" for key in curves.keys() - times.keys()),
        *(f"only {tracker} has {key}" for key in times.keys() - curves.keys()),
        *(f"{tracker} has {key} {n} times" for key, n in times.items() if n > 1),
        *(
            f"{tracker} has {value} for {step, name}, not {curves[step, name]}"
            for step, name, value in seen.points
            if curves.get((step, name), value) != value
        ),
    ]
