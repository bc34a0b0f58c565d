"""Sync what the trackers missed or lost, and models that were trained elsewhere."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from toygpt.pipeline.errors import InputError, first_line
from toygpt.pipeline.lock import locked
from toygpt.pipeline.params import TrackingParams
from toygpt.pipeline.warning import warn
from toygpt.tracking.mlflow.runs import points_in_mlflow
from toygpt.tracking.points import Known, curves_of, known_of
from toygpt.tracking.record import Record, record_of_weights
from toygpt.tracking.results import UNREADABLE, Results, all_results
from toygpt.tracking.run_info import RunInfo, Synced, all_infos, wanted_trackers
from toygpt.tracking.sync import bring_up_to_date, sync, syncing
from toygpt.tracking.wandb.tracker import points_in_wandb

# The points that a tracker has of a run; None if it does not have the run. An error
# means that it cannot be asked.
LOOK_UP: dict[str, Callable[[RunInfo, TrackingParams, Path], Known | None]] = {
    "mlflow": points_in_mlflow,
    "wandb": lambda info, _, root: points_in_wandb(info, root),
}


@dataclass(frozen=True)
class Outcome:
    """Which runs are synced, as the trackers confirmed it."""

    synced: list[str]  # names of the runs that the trackers have completely now
    unsynced: dict[str, list[str]]  # by tracker: names of runs that it lacks a part of


def track(
    root: Path,
    tracking: TrackingParams,
    *,
    revisions: Sequence[str] = (),
    is_rebuilding: bool = False,
) -> Outcome:
    """Bring the trackers up to date with all runs, also those of other trackers.

    Args:
        root: The project that the user works in.
        tracking: Which trackers, and the project's name there.
        revisions: Commits whose results are synced, besides those of the workspace and
            of all experiments.
        is_rebuilding: Whether to look up what the trackers have, rather than rely on
            the records' notes of it.

    Raises:
        InputError: There is no such revision, or it has no results.
    """
    # As MLflow itself: the answer to a large upload may be late.
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = (
        os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") or "120"
    )
    _show_everywhere(root, wanted_trackers(tracking))
    if is_rebuilding:
        forget_lost(tracking, root)
    names = []
    found: dict[str, set[str]] = {}  # directories by id of their record
    unsynced: dict[str, set[str]] = {}  # names of runs, by tracker
    responsive = tracking  # a tracker that failed once is not tried with every run
    for results in all_results(root, revisions):
        is_asked_for = results.revision in revisions
        place = results.revision or "the workspace"
        try:
            try:
                record = _record_of(results, tracking)
            except DamagedRecordError as error:
                if is_asked_for:
                    raise
                warn(f"the results of {place} are left as they are: {error}")
                continue
            with results.directories() as directories:
                found.setdefault(record.info.id, set()).update(directories)
                if _lacking(record, directories, responsive):
                    with syncing(record.folder, is_patient=True) as record:
                        if record.end_if_dead():
                            sync(
                                record,
                                responsive,
                                root,
                                directories=directories,
                                only=_lacking(record, directories, responsive),
                                in_foreground=True,
                            )
                    names.append(record.info.name)
                    for tracker in _lacking(record, directories, tracking):
                        unsynced.setdefault(tracker, set()).add(record.info.name)
                    responsive = responsive.without(unsynced)
        except FileNotFoundError as error:
            if is_asked_for:
                raise InputError(
                    f"{results.revision} has no {error.filename}"
                ) from None
        except InputError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if is_asked_for or results.revision is None:
                raise InputError(
                    f"the results of {place} cannot be read: {error!r}"
                ) from None
    names += bring_up_to_date(responsive, root, in_foreground=True)
    _give_up_what_is_gone(root, wanted_trackers(tracking), found)
    for tracker, name in unsynced_runs(root, tracking):
        unsynced.setdefault(tracker, set()).add(name)
    failed = set().union(*unsynced.values())
    return Outcome(
        synced=[name for name in dict.fromkeys(names) if name not in failed],
        unsynced={tracker: sorted(found) for tracker, found in unsynced.items()},
    )


def _show_everywhere(root: Path, trackers: Sequence[str]) -> None:
    """Note in every record that these trackers show the run: a new server, say."""
    for folder, info in all_infos(root):
        if not set(trackers) <= set(info.trackers):
            with suppress(InputError, OSError):  # a stage has it, or it is damaged
                record = Record(folder)
                with record.locked(is_patient=False):
                    shown = dict.fromkeys([*record.info.trackers, *trackers])
                    record.update(trackers=list(shown))


def _give_up_what_is_gone(
    root: Path, trackers: Collection[str], found: Mapping[str, Collection[str]]
) -> None:
    """Warn of missing directories that were found nowhere, and miss them no more.

    Args:
        root: The project that the user works in.
        trackers: Their names.
        found: The directories that are somewhere, by the id of their record.
    """
    for folder, info in all_infos(root):
        if not any(has.missing for has in info.synced.values()):
            continue
        with suppress(InputError, OSError), syncing(folder) as record:
            if record.writer() is not None:
                continue
            for tracker in trackers:
                has = record.info.synced.get(tracker, Synced(""))
                gone = sorted({*has.missing} - {*found.get(info.id, ())})
                if gone and not record.unsynced([tracker], at_hand=()):
                    warn(
                        f"{tracker} did not get the {' and '.join(gone)} of the run "
                        f"{info.name} in time, and neither the workspace nor an "
                        f"experiment has them now: if a commit does, `python . track "
                        f"COMMIT` logs them"
                    )
                    missing = sorted({*has.missing} - {*gone})
                    now = {tracker: replace(has, missing=missing)}
                    record.note_synced({**record.info.synced, **now})


def forget_lost(tracking: TrackingParams, root: Path) -> None:
    """Mark the runs as unsynced that a tracker does not have, or not completely.

    What a tracker has that cannot be asked stays noted; the user is warned.

    Args:
        tracking: Which trackers are looked at.
        root: The project that the user works in.
    """
    asked = wanted_trackers(tracking)
    for folder, _ in all_infos(root):
        # `bring_up_to_date` warns of a damaged record.
        with suppress(InputError, OSError), syncing(folder) as record:
            synced = dict(record.info.synced)
            for name in [it for it in asked if it in synced]:
                try:
                    if not _has_all(name, record, tracking, root):
                        copies = {*synced[name].directories, *synced[name].missing}
                        synced[name] = Synced("", missing=sorted(copies))
                except Exception as error:  # MLflow's are many
                    warn(f"what {name} has is not looked up: {first_line(error)}")
                    asked.remove(name)
            if synced != record.info.synced and record.writer() is None:
                record.note_synced(synced)


def _has_all(
    tracker: str, record: Record, tracking: TrackingParams, root: Path
) -> bool:
    kind = tracker.partition(":")[0]  # of `mlflow:ADDRESS`
    known = LOOK_UP[kind](record.info, tracking, root)
    return (
        known is not None and known_of(curves_of(record.points)).keys() <= known.keys()
    )


class DamagedRecordError(InputError):
    """The results have a record that cannot be read."""


def _record_of(results: Results, tracking: TrackingParams) -> Record:
    """Return the record of the model; its training's own, if it was trained here.

    Raises:
        DamagedRecordError: It has one, which is damaged.
    """
    weights_sha256 = results.weights_sha256
    # Another `track` makes a record of the same model only once.
    with locked(results.root / ".toygpt" / "track.lock"):
        try:
            record = record_of_weights(results.root, weights_sha256)
        except InputError as error:
            raise DamagedRecordError(str(error)) from None
        if record is None:
            return results.make_record(tracking)
    if missing := _missing_metrics(record, results.evaluation()):
        with record.locked():
            record.append(missing, step=None)
    return record


def _missing_metrics(
    record: Record, evaluation: Mapping[str, float]
) -> dict[str, float]:
    """Return the metrics of the evaluation that the record lacks.

    It lacks them where DVC restored them from its run cache, or pulled them.
    """
    known = known_of(record.points)
    return {
        name: value for name, value in evaluation.items() if (None, name) not in known
    }


def unsynced_runs(root: Path, tracking: TrackingParams) -> Iterator[tuple[str, str]]:
    """Yield each tracker that lacks a part of a run, and the run's name.

    A run that a process is writing or syncing is left to that process.
    """
    for folder, info in all_infos(root):
        with suppress(InputError):
            record = Record(folder)
            if not record.is_busy():
                for tracker in record.unsynced(wanted_trackers(tracking)):
                    yield tracker, info.name


def unsynced_results(
    root: Path, tracking: TrackingParams
) -> tuple[str, list[str]] | None:
    """Return the run of the workspace's model, and the trackers that lack its results.

    The results are its files and the metrics of its evaluation. None if there is no
    such tracker, run or model.
    """
    results = Results(root)
    with suppress(*UNREADABLE):
        record = record_of_weights(root, results.weights_sha256)
        if record is not None and not record.is_busy():
            # `track` appends them to the record: then no tracker has all points.
            is_more = bool(_missing_metrics(record, results.evaluation()))
            with results.directories() as directories:
                if trackers := _lacking(record, directories, tracking, more=is_more):
                    return record.info.name, trackers
    return None


def _lacking(
    record: Record,
    directories: Mapping[str, Path],
    tracking: TrackingParams,
    *,
    more: int = 0,
) -> list[str]:
    """Return the trackers that lack a part of a run, or a copy of a directory.

    Args:
        record: Of the run.
        directories: The trackers shall have a copy of each.
        tracking: Which trackers.
        more: The number of points that the record is about to get.
    """
    info, wanted = record.info, wanted_trackers(tracking)
    lacking = info.unsynced(wanted, len(record.points) + more, at_hand=directories)
    for name in wanted:
        has = info.synced.get(name)
        if has is None or not has.is_wanted or name not in info.trackers:
            continue
        if name not in lacking and not directories.keys() <= set(has.directories):
            lacking.append(name)
    return lacking
