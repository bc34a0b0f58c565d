"""One folder for an offline run in W&B, however often the run was opened."""

import glob
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from toygpt.tracking.wandb.files import files_of_runs
from toygpt.tracking.wandb.log import read_records, write_records

# What the name of a log ends with, once another one has its records.
JOINED = ".joined"
# W&B's own marks beside a log that it has uploaded, or began to upload.
UPLOADED = (".synced", ".syncstate")


def join_folders(folder: Path, run_id: str) -> None:
    """Put all that a run has logged offline into its newest folder, and remove others.

    W&B makes a folder each time that a run is opened, and shows the newest one. What it
    has begun to upload stays as it is. A process that is killed here may leave too
    little, which is synced again, but never the same point twice.
    """
    logs = [log for log in files_of_runs(folder, run_id) if _is_offline(log)]
    if len(logs) > 1:
        *older, newest = logs
        write_records(newest, _joined(logs), before=lambda: _put_aside(older))
    name = f"run-{glob.escape(run_id)}.wandb{JOINED}"
    for log in (folder / "wandb").glob(f"offline-run-*/{name}"):
        _remove(log.parent)


def _is_offline(log: Path) -> bool:
    is_offline = log.parent.name.startswith("offline-")
    marks = [log.with_name(f"{log.name}{mark}") for mark in UPLOADED]
    return is_offline and not any(mark.exists() for mark in marks)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def _put_aside(logs: Sequence[Path]) -> None:
    for log in logs:
        log.rename(log.with_name(f"{log.name}{JOINED}"))


def _joined(logs: Sequence[Path]) -> Iterator[Any]:
    """Yield the records of all logs as if the run had been opened once."""
    of_each = [list(read_records(log)) for log in logs]
    runs = [it for records in of_each for it in records if it.HasField("run")]
    newest = runs[-1]  # its name, its tags
    newest.run.start_time.CopyFrom(runs[0].run.start_time)
    number = num_rows = 0
    seen = set()  # kinds of which the first is enough
    for records in of_each:
        first_row = num_rows
        for record in records:
            kind = record.WhichOneof("record_type")
            if kind in seen or (kind == "exit" and records is not of_each[-1]):
                continue
            if kind in ("header", "run"):
                seen.add(kind)
            elif kind == "history":
                num_rows += 1
                record.history.step.num += first_row
                _move(record.history.item, first_row)
            elif kind == "summary":
                _move(record.summary.update, first_row)
            number += 1
            record.num = number
            yield newest if kind == "run" else record


def _move(items: Sequence[Any], num_rows: int) -> None:
    """Add to W&B's own count of the rows, which began at zero in each log."""
    for item in items:
        if (item.key or "/".join(item.nested_key)) == "_step":
            item.value_json = json.dumps(json.loads(item.value_json) + num_rows)
