"""Bring trackers up to date with records: of the current run, and of earlier ones."""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import TrackingParams
from toygpt.pipeline.process import without_garbage_collection
from toygpt.tracking.mlflow import MLflowTracker, points_in_mlflow
from toygpt.tracking.points import Known, count_points, curves_of, known_of
from toygpt.tracking.record import POINTS_FILE, Record, RunInfo, all_infos
from toygpt.tracking.sync_worker import SyncWorker
from toygpt.tracking.tracker import Tracker
from toygpt.tracking.wandb import WandbTracker, points_in_wandb

PROCESS_IS_GONE = "its process is gone"

OPEN: dict[str, Callable[[RunInfo, TrackingParams, Path], Tracker]] = {
    "mlflow": MLflowTracker,
    "wandb": WandbTracker,
}
# The points that a tracker has of a run; None if it does not have the run.
LOOK_UP: dict[str, Callable[[RunInfo, Path], Known | None]] = {
    "mlflow": points_in_mlflow,
    "wandb": points_in_wandb,
}


def wanted_trackers(tracking: TrackingParams) -> list[str]:
    """Return the names of the trackers that params.yaml asks for."""
    wanted = {"mlflow": tracking.mlflow, "wandb": tracking.wandb != "disabled"}
    return [name for name, is_wanted in wanted.items() if is_wanted]


@contextmanager
def syncing(
    record: Record,
    tracking: TrackingParams,
    root: Path,
    *,
    only: Collection[str] | None = None,
    is_quiet: bool = False,
) -> Iterator[list[SyncWorker]]:
    """Keep the wanted trackers of a record up to date until the block ends.

    Args:
        record: Locked by this process.
        tracking: Which trackers.
        root: The project that the user works in.
        only: Names of the trackers to sync, of those; by default all.
        is_quiet: Whether failing trackers cause no warning.
    """
    workers = []
    # To open a tracker is to import much, and imports make no garbage.
    with without_garbage_collection():
        for name in wanted_trackers(tracking):
            if name in record.info.trackers and (only is None or name in only):
                opener = _opener(name, record, tracking, root)
                worker = SyncWorker(name, record, opener, is_quiet=is_quiet)
                workers.append(worker)
                worker.wait_for_first_try()
    try:
        yield workers
    finally:
        for worker in workers:
            worker.begin_finish()
        for worker in workers:
            worker.wait_for_finish()


def _opener(
    name: str, record: Record, tracking: TrackingParams, root: Path
) -> Callable[[], Tracker]:
    return lambda: OPEN[name](record.info, tracking, root)  # as it is by then


def bring_up_to_date(
    tracking: TrackingParams,
    root: Path,
    *,
    except_run: str | None = None,
    is_quiet: bool = False,
) -> list[str]:
    """Sync what the trackers missed, and end the runs whose process is gone.

    Args:
        tracking: Which trackers.
        root: The project that the user works in.
        except_run: Id of a record to leave as it is.
        is_quiet: Whether failing trackers cause no warning.

    Returns:
        The names of the runs that a tracker has more of now.
    """
    names = []
    responsive = wanted_trackers(tracking)
    # The newest first: an old one that a tracker refuses must not hold it back.
    for folder, info in reversed(list(all_infos(root))):
        is_settled = info.status != "RUNNING" and not info.unsynced(
            responsive, count_points(folder / POINTS_FILE)
        )
        if info.id == except_run or is_settled:
            continue
        try:
            record = Record(folder)
            with record.locked(is_patient=False):
                if record.info.status == "RUNNING":
                    _end_dead_run(record)
                before = record.unsynced(responsive)
                with syncing(record, tracking, root, only=before, is_quiet=is_quiet):
                    pass  # the workers begin with everything that is missing
        except BlockingIOError:  # a process is writing it
            continue
        except (InputError, OSError) as error:
            message = f"the training {info.name} is left as it is: {error}"
            print(f"warning: {message}", file=sys.stderr, flush=True)
            continue
        after = record.unsynced(responsive)
        if any(record.info.synced[name].is_wanted for name in {*before} - {*after}):
            names.append(info.name)
        # A tracker that failed once is not tried with every run.
        responsive = [name for name in responsive if name not in after]
    return names


def sync_run(
    record: Record,
    tracking: TrackingParams,
    root: Path,
    directories: Mapping[str, Path],
) -> None:
    """Sync one record, and copies of directories, with the wanted trackers."""
    with record.locked():
        if record.info.status == "RUNNING":  # but the lock was free
            _end_dead_run(record)
        with syncing(record, tracking, root) as workers:
            for worker in workers:
                for name, directory in directories.items():
                    worker.sync_directory(directory, name=name)


def _end_dead_run(record: Record) -> None:
    last = max((point.time for point in record.points), default=record.info.started)
    record.update(status="KILLED", reason=PROCESS_IS_GONE, ended=last)


def forget_lost(tracking: TrackingParams, root: Path) -> set[str]:
    """Mark the runs as unsynced that a tracker does not have, or not completely.

    Args:
        tracking: Which trackers are looked at.
        root: The project that the user works in.

    Returns:
        The ids of these runs.
    """
    lost = set()
    for folder, info in all_infos(root):
        with (
            suppress(InputError, OSError),  # `bring_up_to_date` warns of it
            (record := Record(folder)).locked(is_patient=False),
        ):
            synced = {
                name: entry
                for name, entry in record.info.synced.items()
                if name not in wanted_trackers(tracking) or _has_all(name, record, root)
            }
            if synced != record.info.synced:
                record.update(synced=synced)
                lost.add(info.id)
    return lost


def _has_all(tracker: str, record: Record, root: Path) -> bool:
    known = LOOK_UP[tracker](record.info, root)
    return (
        known is not None and known_of(curves_of(record.points)).keys() <= known.keys()
    )
