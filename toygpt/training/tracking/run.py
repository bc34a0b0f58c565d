"""A training, as it is told to our own record, and by that to every tracker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toygpt.errors import InputError, first_line
from toygpt.training.tracking.courier import Courier
from toygpt.training.tracking.mlflow_tracker import MLflowTracker, points_in_mlflow
from toygpt.training.tracking.record import (
    Record,
    all_infos,
    known_of,
    record_of_weights,
    runs_folder,
)
from toygpt.training.tracking.tracker import Tracker
from toygpt.training.tracking.wandb_tracker import WandbTracker, points_on_disk

if TYPE_CHECKING:
    from toygpt.params import TrackingParams


# What a tracker has of a run, by step and name.
LOOK_UP = {"mlflow": points_in_mlflow, "wandb": points_on_disk}


class Run:
    """One training, as told to its record and to every tracker."""

    def __init__(
        self, record: Record | None, tracking: TrackingParams, root: Path
    ) -> None:
        self.record = record
        self._couriers: list[Courier] = []
        if record is not None:
            for name, open_tracker in _openers(record, tracking, root).items():
                if name in record.info.trackers:
                    self._couriers.append(Courier(name, record, open_tracker))
        for courier in self._couriers:
            courier.wait_for_first_try()

    def log_facts(self, facts: Mapping[str, str]) -> None:
        """Note what is true of the whole run and no parameter."""
        if self.record is not None:
            self.record.update(facts={**self.record.info.facts, **facts})
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
        for courier in self._couriers:
            courier.take_directory(directory, name=name)

    def remember_weights(self, weights_sha256: str) -> None:
        """Let later stages find this run by the weights that came of it."""
        if self.record is not None:
            self.record.update(weights_sha256=weights_sha256)
            self.log_facts({"weights.sha256": weights_sha256})

    def close(self) -> None:
        """Tell every tracker the rest."""
        for courier in self._couriers:
            courier.finish()

    def _tell_news(self) -> None:
        for courier in self._couriers:
            courier.tell_news()


def _openers(
    record: Record, tracking: TrackingParams, root: Path
) -> dict[str, Callable[[], Tracker]]:
    """Return how to open each tracker that is wanted now."""
    openers: dict[str, Callable[[], Tracker]] = {}
    if tracking.mlflow:
        openers["mlflow"] = lambda: MLflowTracker(record.info, tracking, root)
    if tracking.wandb != "disabled":
        openers["wandb"] = lambda: WandbTracker(record.info, tracking, root)
    return openers


@contextmanager
def training_run(
    run_id: str,
    name: str,
    params: Mapping[str, Any],
    facts: Mapping[str, str],
    *,
    tracking: TrackingParams,
    root: Path,
    is_first_process: bool = True,
) -> Iterator[Run]:
    """Open the run of a training, or go on with it; it ends as the block does.

    Args:
        run_id: Of its record.
        name: What the trackers show.
        params: All parameters, flattened.
        facts: What is true of the whole run and no parameter.
        tracking: Which trackers, and the project's name there.
        root: The project that the user works in.
        is_first_process: Whether this process speaks for all that train together. The
            others have nothing to say.
    """
    if not is_first_process:
        yield Run(None, tracking, root)
        return
    bring_up_to_date(tracking, root, but=run_id)
    what = {"name": name, "tags": tracking.tags, "trackers": wanted_trackers(tracking)}
    record = _record(root, run_id)
    if record is None:
        record = Record.create(
            root,
            id=run_id,
            project=tracking.project,
            params=dict(params),
            facts=dict(facts),
            **what,
        )
    else:
        record.update(
            **what, facts={**record.info.facts, **facts, **_resumption(record, params)}
        )
    with record.locked():
        record.update(status="RUNNING", reason=None, ended=None)
        run = Run(record, tracking, root)
        status, reason = "FINISHED", None
        try:
            yield run
        except BaseException as error:
            is_killed = isinstance(error, KeyboardInterrupt | SystemExit)
            status = "KILLED" if is_killed else "FAILED"
            reason = first_line(error)
            raise
        finally:
            try:
                record.update(status=status, reason=reason, ended=time.time())
                if reason is not None:
                    run.log_facts({"reason": reason})
            finally:
                run.close()


def _record(root: Path, run_id: str) -> Record | None:
    try:
        return Record(runs_folder(root) / run_id)
    except InputError:
        return None


def _resumption(record: Record, params: Mapping[str, Any]) -> dict[str, str]:
    """Return why a run was resumed, and with which other parameters, as facts."""
    before = record.info.params
    changed = {
        f"resumed.{key}": str(value)
        for key, value in params.items()
        if key in before and before[key] != value
    }
    reason = record.info.facts.get("reason") or "its process is gone"
    return {"resumed.after": reason, "reason": "", **changed}


@contextmanager
def run_of_model(
    weights_sha256: str, *, tracking: TrackingParams, root: Path
) -> Iterator[Run]:
    """Go on with the run that trained a model; its status stays as it is.

    A model that was not trained here (restored from a cache, pulled from a remote) has
    no run here; then nothing is logged.
    """
    record = record_of_weights(root, weights_sha256)
    with ExitStack() as stack:
        if record is not None:
            stack.enter_context(record.locked())
        run = Run(record, tracking, root)
        try:
            yield run
        finally:
            run.close()


def wanted_trackers(tracking: TrackingParams) -> list[str]:
    """Return the names of the trackers that are to be told."""
    wanted = {"mlflow": tracking.mlflow, "wandb": tracking.wandb != "disabled"}
    return [name for name, is_wanted in wanted.items() if is_wanted]


def bring_up_to_date(
    tracking: TrackingParams, root: Path, *, but: str | None = None
) -> list[str]:
    """End the runs whose process is gone, and tell the trackers what they missed.

    Args:
        tracking: Which trackers are told.
        root: The project that the user works in.
        but: Id of a record that is left as it is.

    Returns:
        The names of the runs that the trackers know more of now.
    """
    names = []
    for folder, info in all_infos(root):
        if info.id == but:
            continue
        record = Record(folder)
        if record.is_being_written():
            continue
        if info.status == "RUNNING":
            _end_dead_run(record)
        if not record.is_told_to_all(wanted_trackers(tracking)):
            tell_trackers(record, tracking, root)
            if not record.is_told_to_all(wanted_trackers(tracking)):
                break  # a tracker that does not listen now is not asked again
            names.append(info.name)
    return names


def forget_what_is_lost(tracking: TrackingParams, root: Path) -> None:
    """Let the trackers be told anew of runs that they do not have, or not whole.

    Args:
        tracking: Which trackers are asked.
        root: The project that the user works in.
    """
    for folder, info in all_infos(root):
        record = Record(folder)
        curves = [point for point in record.points if point.step is not None]
        if record.is_being_written():
            continue
        with record.locked():
            for name in wanted_trackers(tracking):
                known = LOOK_UP[name](info, root)
                if not known_of(curves).keys() <= known.keys():
                    told = {**record.info.told}
                    told.pop(name, None)
                    record.update(told=told)


def _end_dead_run(record: Record) -> None:
    with record.locked():
        if record.info.status == "RUNNING":
            last = max((point.time for point in record.points), default=0.0)
            record.update(
                status="KILLED",
                reason="its process is gone",
                ended=last or record.info.started,
            )


def tell_trackers(
    record: Record,
    tracking: TrackingParams,
    root: Path,
    directories: Mapping[str, Path] | None = None,
) -> None:
    """Tell the trackers of a record whatever they do not know."""
    with record.locked():
        run = Run(record, tracking, root)
        for name, directory in (directories or {}).items():
            run.log_directory(directory, name=name)
        run.close()
