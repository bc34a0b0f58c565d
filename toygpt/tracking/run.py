"""A training, as it is told to our own record, and by that to every tracker."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toygpt.pipeline.errors import InputError, first_line
from toygpt.pipeline.process import without_garbage_collection
from toygpt.tracking.mlflow import MLflowTracker, points_in_mlflow
from toygpt.tracking.record import (
    Record,
    RunInfo,
    all_infos,
    alone_in,
    count_points,
    known_of,
    read_info,
    record_of_weights,
    runs_folder,
)
from toygpt.tracking.sync_worker import SyncWorker
from toygpt.tracking.tracker import Tracker
from toygpt.tracking.wandb import WandbTracker, points_on_disk

if TYPE_CHECKING:
    from toygpt.pipeline.params import TrackingParams


ITS_PROCESS_IS_GONE = "its process is gone"

# What a tracker has of a run, by step and name; None if it does not have the run.
LOOK_UP = {"mlflow": points_in_mlflow, "wandb": points_on_disk}


class Run:
    """One training, as told to its record and to every tracker."""

    def __init__(
        self,
        record: Record | None,
        openers: Mapping[str, Callable[[], Tracker]],
        *,
        is_quiet: bool = False,
    ) -> None:
        self.record = record
        self._couriers: list[SyncWorker] = []
        if record is not None:
            with without_garbage_collection():  # to open a tracker is to import much
                for name, open_tracker in openers.items():
                    worker = SyncWorker(name, record, open_tracker, is_quiet=is_quiet)
                    self._couriers.append(worker)
                    worker.wait_for_first_try()

    def log_metadata(self, metadata: Mapping[str, str]) -> None:
        """Note what is true of the whole run and no parameter."""
        if self.record is not None:
            self.record.add_metadata(metadata)
            self._tell_news()

    def log_metrics(
        self, metrics: Mapping[str, float], *, step: int | None = None
    ) -> None:
        """Note one point of each curve; without a step, results."""
        if self.record is not None:
            self.record.append(metrics, step=step)
            self._tell_news()

    def log_directory(self, directory: Path, *, name: str) -> None:
        """Let the trackers keep a copy of all files in a directory."""
        for worker in self._couriers:
            worker.take_directory(directory, name=name)

    def remember_weights(self, weights_sha256: str) -> None:
        """Let later stages find this run by the weights that came of it."""
        if self.record is not None:
            self.record.update(weights_sha256=weights_sha256)
            self.log_metadata({"weights.sha256": weights_sha256})

    def close(self) -> None:
        """Tell every tracker the rest."""
        for worker in self._couriers:
            worker.ask_to_finish()
        for worker in self._couriers:
            worker.wait_for_finish()

    def _tell_news(self) -> None:
        for worker in self._couriers:
            worker.tell_news()


def _openers(
    record: Record, tracking: TrackingParams, root: Path
) -> dict[str, Callable[[], Tracker]]:
    """Return how to open each tracker that is wanted now and follows the record."""
    openers: dict[str, Callable[[], Tracker]] = {}
    if tracking.mlflow:
        openers["mlflow"] = lambda: MLflowTracker(record.info, tracking, root)
    if tracking.wandb != "disabled":
        openers["wandb"] = lambda: WandbTracker(record.info, tracking, root)
    return {
        name: opener for name, opener in openers.items() if name in record.info.trackers
    }


@contextmanager
def null_run() -> Iterator[Run]:
    """Yield a run that logs nothing: that of every rank but rank zero."""
    yield Run(None, {})


@contextmanager
def training_run(
    run_id: str,
    name: str,
    params: Mapping[str, Any],
    metadata: Mapping[str, str],
    *,
    tracking: TrackingParams,
    root: Path,
) -> Iterator[Run]:
    """Open the run of a training, or continue it; it ends as the block does.

    Only rank zero may open it; the other ranks have a `null_run`.

    Args:
        run_id: Of its record.
        name: What the trackers show.
        params: All parameters, flattened.
        metadata: What is true of the whole run and no parameter.
        tracking: Which trackers, and the project's name there.
        root: The project that the user works in.
    """
    # If a tracker fails, the user hears of it from the run that is to begin.
    bring_up_to_date(tracking, root, but=run_id, is_quiet=True)
    folder = runs_folder(root) / run_id
    with alone_in(folder):
        record = _record(folder)
        if record is None:
            record = Record.create(
                root,
                id=run_id,
                name=name,
                project=tracking.project,
                params=dict(params),
                tags=tracking.tags,
                trackers=wanted_trackers(tracking),
                metadata=dict(metadata),
            )
        else:
            followers = [*record.info.trackers, *wanted_trackers(tracking)]
            record.update(
                name=name,
                tags=tracking.tags,
                # One that is muted today is told the rest another day.
                trackers=list(dict.fromkeys(followers)),
                metadata={
                    **record.info.metadata,
                    **metadata,
                    **_resumption(record, params),
                },
                status="RUNNING",
                reason=None,
                ended=None,
            )
        run = Run(record, _openers(record, tracking, root))
        try:
            yield run
        except BaseException as error:
            is_killed = isinstance(error, KeyboardInterrupt | SystemExit)
            with suppress(OSError):  # of two errors the first one counts
                record.update(
                    status="KILLED" if is_killed else "FAILED",
                    reason=first_line(error),
                    ended=time.time(),
                )
            raise
        else:
            record.update(status="FINISHED", ended=time.time())
        finally:
            run.close()


def _record(folder: Path) -> Record | None:
    """Return the record in a folder; none if what is known of the run is lost."""
    try:
        read_info(folder)
    except InputError:
        return None
    return Record(folder)


def _resumption(record: Record, params: Mapping[str, Any]) -> dict[str, str]:
    """Return why a run was resumed, and with which other parameters, as metadata."""
    before = record.info.params
    changed = {
        f"resumed.{key}": str(value)
        for key, value in params.items()
        if (key in before and before[key] != value)
        or f"resumed.{key}" in record.info.metadata
    }
    return {"resumed.after": record.info.reason or ITS_PROCESS_IS_GONE, **changed}


@contextmanager
def run_of_model(
    weights_sha256: str, *, tracking: TrackingParams, root: Path
) -> Iterator[Run]:
    """Go on with the run that trained a model; its status stays as it is.

    A model that was not trained here (restored from a cache, pulled from a remote) has
    no run here; then nothing is logged.
    """
    record = None
    try:
        record = record_of_weights(root, weights_sha256)
    except InputError as error:
        _warn(f"what is found of this model is not noted with its training: {error}")
    if record is None:
        yield Run(None, {})
        return
    with record.locked():
        run = Run(record, _openers(record, tracking, root))
        try:
            yield run
        finally:
            run.close()


def wanted_trackers(tracking: TrackingParams) -> list[str]:
    """Return the names of the trackers that are to be told."""
    wanted = {"mlflow": tracking.mlflow, "wandb": tracking.wandb != "disabled"}
    return [name for name, is_wanted in wanted.items() if is_wanted]


def bring_up_to_date(
    tracking: TrackingParams,
    root: Path,
    *,
    but: str | None = None,
    is_quiet: bool = False,
) -> list[str]:
    """End the runs whose process is gone, and tell the trackers what they missed.

    Args:
        tracking: Which trackers are told.
        root: The project that the user works in.
        but: Id of a record that is left as it is.
        is_quiet: Whether nothing is said of trackers that fail.

    Returns:
        The names of the runs that the trackers know more of now.
    """
    names = []
    listening = wanted_trackers(tracking)
    # If one of them cannot be told, the newer ones are told all the same.
    for folder, info in reversed(list(all_infos(root))):
        if info.id == but or _is_settled(folder, info, listening):
            continue
        try:
            record = Record(folder)
            with record.locked(is_patient=False):
                if record.info.status == "RUNNING":
                    _end_dead_run(record)
                unsynced = record.info.unsynced(listening, len(record.points))
                _tell(record, unsynced, tracking, root, is_quiet=is_quiet)
        except BlockingIOError:  # a process is at work on it
            continue
        except (InputError, OSError) as error:
            _warn(f"the training {info.name} is left as it is: {error}")
            continue
        still_untold = record.info.unsynced(listening, len(record.points))
        learned = set(unsynced) - set(still_untold)
        if any(record.info.synced[tracker].is_wanted for tracker in learned):
            names.append(info.name)
        # A tracker that does not listen now is not asked again.
        listening = [name for name in listening if name not in still_untold]
    return names


def _is_settled(folder: Path, info: RunInfo, trackers: Iterable[str]) -> bool:
    return info.status != "RUNNING" and not info.unsynced(
        trackers, count_points(folder)
    )


def _end_dead_run(record: Record) -> None:
    last = max((point.time for point in record.points), default=record.info.started)
    record.update(status="KILLED", reason=ITS_PROCESS_IS_GONE, ended=last)


def forget_lost(tracking: TrackingParams, root: Path) -> set[str]:
    """Let the trackers be told anew of runs that they do not have, or not whole.

    Args:
        tracking: Which trackers are asked.
        root: The project that the user works in.

    Returns:
        The ids of these runs.
    """
    lost = set()
    for folder, info in all_infos(root):
        with (
            suppress(InputError, OSError),  # `bring_up_to_date` says what is wrong
            (record := Record(folder)).locked(is_patient=False),
        ):
            told = {
                name: told
                for name, told in record.info.synced.items()
                if name not in wanted_trackers(tracking) or _has_all(name, record, root)
            }
            if told != record.info.synced:
                record.update(synced=told)
                lost.add(info.id)
    return lost


def _has_all(tracker: str, record: Record, root: Path) -> bool:
    curves = [point for point in record.points if point.step is not None]
    known = LOOK_UP[tracker](record.info, root)
    return known is not None and known_of(curves).keys() <= known.keys()


def sync_run(
    record: Record,
    tracking: TrackingParams,
    root: Path,
    directories: Mapping[str, Path],
) -> None:
    """Tell the trackers of a record whatever they do not know, directories as well."""
    with record.locked():
        if record.info.status == "RUNNING":  # yet nobody held the lock
            _end_dead_run(record)
        _tell(record, wanted_trackers(tracking), tracking, root, directories)


def _tell(
    record: Record,
    trackers: Iterable[str],
    tracking: TrackingParams,
    root: Path,
    directories: Mapping[str, Path] | None = None,
    *,
    is_quiet: bool = False,
) -> None:
    openers = _openers(record, tracking, root)
    openers = {name: openers[name] for name in trackers if name in openers}
    run = Run(record, openers, is_quiet=is_quiet)
    for name, directory in (directories or {}).items():
        run.log_directory(directory, name=name)
    run.close()


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
