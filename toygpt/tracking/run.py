"""A run as the stages log to it: to its record, which another process follows."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from toygpt.pipeline.errors import InputError, first_line
from toygpt.pipeline.lock import locked
from toygpt.pipeline.params import TrackingParams
from toygpt.pipeline.warning import warn
from toygpt.tracking.follower import Follower
from toygpt.tracking.record import (
    PROCESS_IS_GONE,
    Record,
    alone_in,
    end_dead_runs,
    record_of_weights,
)
from toygpt.tracking.run_info import Status, read_info, runs_folder, wanted_trackers
from toygpt.tracking.wandb.settings import settings_of_training, to_metadata


class Run:
    """One training, logged to its record."""

    def __init__(self, record: Record, follower: Follower) -> None:
        self.record = record
        self._follower = follower

    def log_metadata(self, metadata: Mapping[str, str]) -> None:
        """Log properties of the whole run, besides parameters."""
        self.record.add_metadata(metadata)

    def log_metrics(
        self, metrics: Mapping[str, float], *, step: int | None = None
    ) -> None:
        """Log one point of each curve; without a step, results."""
        self.record.append(metrics, step=step)

    def log_directory(self, directory: Path, *, name: str) -> None:
        """Make the trackers copy all files of a directory before the stage ends."""
        self._follower.directories[name] = directory.absolute()

    def remember_weights(self, weights_sha256: str) -> None:
        """Note the weights that this run trained; later stages find it by them."""
        self.record.update(weights_sha256=weights_sha256)
        self.log_metadata({"weights.sha256": weights_sha256})


class NullRun(Run):
    """The run of a model that was trained elsewhere: it logs nothing."""

    def __init__(self) -> None:
        pass

    def log_metadata(self, *_: Any, **__: Any) -> None:
        """Log nothing."""

    log_metrics = log_directory = remember_weights = log_metadata


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
    """Open the run of a training, or continue it; its status follows from the block.

    Only rank zero may open it.

    Args:
        run_id: Of its record.
        name: Shown by the trackers.
        params: All parameters, flattened.
        metadata: Properties of the whole run, besides parameters.
        tracking: Which trackers, and the project's name there.
        root: The project that the user works in.
    """
    end_dead_runs(root)
    with Follower(tracking, root) as follower, alone_in(runs_folder(root) / run_id):
        record = _readable_record(runs_folder(root) / run_id)
        if record is None:
            # Of two trainings that start together, one gets the id in WANDB_RUN_ID.
            with locked(root / ".toygpt" / "wandb.lock"):
                settings = settings_of_training(tracking, root)
                record = Record.create(
                    root,
                    id=run_id,
                    name=name,
                    project=tracking.project,
                    params=dict(params),
                    tags=tracking.tags,
                    trackers=wanted_trackers(tracking),
                    metadata={**metadata, **to_metadata(settings)},
                )
        else:
            _resume(record, name, params, metadata, tracking)
        record.reserve_room()
        follower.start(record)
        try:
            yield Run(record, follower)
        except BaseException as error:
            is_killed = isinstance(error, KeyboardInterrupt | SystemExit)
            status: Status = "KILLED" if is_killed else "FAILED"
            with suppress(OSError):  # the first error is the one to report
                record.end(status, first_line(error), time.time())
            raise
        else:
            record.end("FINISHED", None, time.time())


def _readable_record(folder: Path) -> Record | None:
    """Return the record in a folder; None if there is none, or its run.json is lost."""
    try:
        read_info(folder)
    except InputError:
        return None
    return Record(folder)


def _resume(
    record: Record,
    name: str,
    params: Mapping[str, Any],
    metadata: Mapping[str, str],
    tracking: TrackingParams,
) -> None:
    """Set the record's status to RUNNING, and add why and with what it was resumed.

    A run keeps the parameters that it began with: others become metadata.
    """
    info = record.info
    resumption = {"resumed.after": info.reason or PROCESS_IS_GONE}
    for key, value in params.items():
        is_changed = key in info.params and info.params[key] != value
        if is_changed or f"resumed.{key}" in info.metadata:
            resumption[f"resumed.{key}"] = str(value)
    record.update(
        name=name,
        tags=tracking.tags,
        # A tracker that is muted today is synced another day.
        trackers=list(dict.fromkeys([*info.trackers, *wanted_trackers(tracking)])),
        metadata={**info.metadata, **metadata, **resumption},
        status="RUNNING",
        reason=None,
        ended=None,
    )


@contextmanager
def run_of_model(
    weights_sha256: str, *, tracking: TrackingParams, root: Path
) -> Iterator[Run]:
    """Continue the run that trained a model; its status stays.

    A model that was not trained here (restored from a cache, pulled from a remote) has
    no run here; then nothing is logged.
    """
    try:
        record = record_of_weights(root, weights_sha256)
    except InputError as error:
        warn(f"the results are not logged to the run of this model: {error}")
        record = None
    if record is None:
        yield NullRun()
        return
    with Follower(tracking, root) as follower, record.locked():
        follower.start(record)
        yield Run(record, follower)
