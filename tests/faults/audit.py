"""Compare what the trackers have with our own records, value by value."""

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toygpt.tracking.mlflow import RECORD_TAG
from toygpt.tracking.mlflow_database import DATABASE
from toygpt.tracking.points import Known, known_of
from toygpt.tracking.record import Record
from toygpt.tracking.run_info import all_infos
from toygpt.tracking.wandb import EXIT_CODES
from toygpt.tracking.wandb_files import WandbRun, read_runs

Seen = list[tuple[int, str, float]]  # step, name and value of each point


@dataclass
class MLflowRun:
    """A run in MLflow's database, without its system metrics."""

    name: str
    status: str
    points: list[tuple[int, str, float]] = field(default_factory=list)


def audit(root: Path) -> list[str]:
    """Return every disagreement between our records, MLflow and W&B."""
    records = {info.id: Record(folder) for folder, info in all_infos(root)}
    in_mlflow, in_wandb = _runs_in_mlflow(root), _runs_in_wandb(root)
    found = [
        f"{tracker} has a run without a record: {run_id}"
        for tracker, run_ids in (("mlflow", {*in_mlflow}), ("wandb", {*in_wandb}))
        for run_id in sorted(run_ids - records.keys())
    ]
    for run_id, record in records.items():
        differences = []
        if "mlflow" in record.info.trackers:
            differences += _differences_in_mlflow(record, in_mlflow.get(run_id, []))
        if "wandb" in record.info.trackers:
            differences += _differences_in_wandb(record, in_wandb.get(run_id, []))
        found += [f"{record.info.name} ({run_id}): {text}" for text in differences]
    return found


def _runs_in_mlflow(root: Path) -> dict[str, list[MLflowRun]]:
    """Return all runs by the id of their record; each record should have one.

    They are read without MLflow: it keeps a file open that a test may replace.
    """
    database = root / DATABASE
    if not database.exists():
        return {}
    runs: dict[str, list[MLflowRun]] = {}
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
            )
            run = MLflowRun(name, status, points.fetchall())
            runs.setdefault(run_id, []).append(run)
    return runs


def _runs_in_wandb(root: Path) -> dict[str, list[WandbRun]]:
    """Return the files of each run, one for each time that it was opened, oldest first.

    If W&B was killed at once, it wrote nothing, not even the run's id.
    """
    runs: dict[str, list[WandbRun]] = {}
    for run in read_runs(root):
        if run.run_id:
            runs.setdefault(run.run_id, []).append(run)
    return runs


def _differences_in_mlflow(record: Record, runs: list[MLflowRun]) -> list[str]:
    if len(runs) != 1:
        return [f"mlflow has {len(runs)} runs of it"]
    (run,) = runs
    curves, results = _curves_and_results(record)
    # MLflow keeps results at step 0, where no curve has a point; the last one counts.
    results_seen = {name: value for step, name, value in run.points if step == 0}
    return [
        *_compared("mlflow's name", record.info.name, run.name),
        *_compared("mlflow's status", record.info.status, run.status),
        *_compared("mlflow's results", results, results_seen),
        *_compared_curves("mlflow", curves, [p for p in run.points if p[0] != 0]),
    ]


def _differences_in_wandb(record: Record, parts: list[WandbRun]) -> list[str]:
    if not parts:
        return ["wandb has no run of it"]
    curves, results = _curves_and_results(record)
    summary: dict[str, Any] = {}
    for part in parts:
        summary |= part.summary
    results_seen = {name: summary[name] for name in results if name in summary}
    points = [
        (row["step"], name, value)
        for part in parts
        for row in part.history
        for name, value in row.items()
        if name != "step"
    ]
    exit_code = EXIT_CODES.get(record.info.status)
    return [
        *_compared("wandb's name", record.info.name, parts[-1].name),
        *_compared("wandb's exit code", exit_code, parts[-1].exit_code),
        *_compared("wandb's results", results, results_seen),
        *_compared_curves("wandb", curves, points),
    ]


def _curves_and_results(record: Record) -> tuple[Known, dict[str, float]]:
    known = known_of(record.points)
    curves = {key: value for key, value in known.items() if key[0] is not None}
    results = {name: value for (step, name), value in known.items() if step is None}
    return curves, results


def _compared_curves(tracker: str, expected: Known, seen: Seen) -> list[str]:
    """Each point must be there exactly once, with its value."""
    times = Counter((step, name) for step, name, _ in seen)
    return [
        *(f"{tracker} lacks {key}" for key in expected.keys() - times.keys()),
        *(f"only {tracker} has {key}" for key in times.keys() - expected.keys()),
        *(f"{tracker} has {key} {n} times" for key, n in times.items() if n > 1),
        *(
            f"{tracker} has {value} for {step, name}, not {expected[step, name]}"
            for step, name, value in seen
            if expected.get((step, name), value) != value
        ),
    ]


def _compared(what: str, expected: object, got: object) -> list[str]:
    return [] if expected == got else [f"{what}: {got!r} instead of {expected!r}"]
