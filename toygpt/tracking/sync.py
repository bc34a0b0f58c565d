"""Bring the trackers up to date with the records, in a process beside the training.

A stage starts it, with `python -m toygpt.tracking.sync FOLDER TRACKING`.

Live, late and once more after a loss are the same: what a tracker has is compared with
what the record has, and the rest is logged.
"""

import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Timer
from time import monotonic, sleep

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.lock import holder_of, locked
from toygpt.pipeline.params import TrackingParams
from toygpt.pipeline.warning import warn
from toygpt.tracking.connection import Connection
from toygpt.tracking.mlflow.tracker import MLflowTracker
from toygpt.tracking.points import count_points
from toygpt.tracking.record import POINTS_FILE, SYNC_LOCK_FILE, Record
from toygpt.tracking.results import Results
from toygpt.tracking.run_info import RunInfo, all_infos, wanted_trackers
from toygpt.tracking.stage import Stage
from toygpt.tracking.tracker import Tracker
from toygpt.tracking.wandb.tracker import WandbTracker

POLL_SECONDS = 0.2
# How long a tracker has while its stage works: another one waits for it, and W&B has 30
# seconds to open a run. How long the trackers have at the end of a run (W&B's own limit
# for an upload is 60 seconds), if its stage was killed, if they fail, and for earlier
# runs when this one is complete.
PATIENCE_WHILE_TRAINING_SECONDS = 35.0
PATIENCE_AT_END_SECONDS = 90.0
PATIENCE_WITHOUT_STAGE_SECONDS = 20.0
PATIENCE_WITH_FAILURE_SECONDS = 10.0
PATIENCE_WITH_EARLIER_SECONDS = 10.0
SECONDS_TO_EXIT = 10
# Where a user waits, a tracker has as long as an upload or a copy takes. MLflow's own
# limit is for the time without an answer.
PATIENCE_FOR_UPLOADS_SECONDS = 7 * 86400.0
SECONDS_UNTIL_NOTICE = 5.0  # in the foreground

EARLIER = "earlier"  # the argument that asks for the runs before this one

OPEN: dict[str, Callable[..., Tracker]] = {
    "mlflow": MLflowTracker,
    "wandb": WandbTracker,
}


def sync(
    record: Record,
    tracking: TrackingParams,
    root: Path,
    *,
    stage: Stage | None = None,
    directories: Mapping[str, Path] | None = None,
    only: Collection[str] | None = None,
    is_quiet: bool = False,
    in_foreground: bool = False,
) -> None:
    """Keep the trackers up to date with a record, and end the run as its stage does.

    The caller is alone in `syncing` the record.

    Args:
        record: May be written by a stage meanwhile.
        tracking: Which trackers.
        root: The project that the user works in.
        stage: The stage that is writing the record, if one is.
        directories: Of which the trackers shall have a copy; the stage has its own.
        only: Names of the trackers to sync, of those; by default all.
        is_quiet: Whether failing trackers cause no warning.
        in_foreground: Whether a user waits, and no stage.
    """
    connections = []
    for name in wanted_trackers(tracking):
        if name in record.info.trackers and (only is None or name in only):
            kind = name.partition(":")[0]  # of `mlflow:ADDRESS`
            opened = partial(OPEN[kind], tracking=tracking, root=root)
            connections.append(Connection(name, record, opened, is_quiet=is_quiet))

    while stage is not None and stage.is_at_work():
        with suppress(InputError, OSError):  # the user has deleted it, say
            record.refresh()
        for connection in connections:
            if stage.is_at_work():  # one of them may take long
                connection.sync({}, limit_seconds=PATIENCE_WHILE_TRAINING_SECONDS)
        sleep(POLL_SECONDS)

    directories = stage.directories() if stage is not None else directories or {}
    for connection in connections:
        connection.expect(directories, again=stage is not None)
    if not record.end_if_dead():  # a stage writes it: another one, or this one again
        record.refresh()
    if record.info.status == "RUNNING":  # the other one continues the training
        for connection in connections:
            connection.abandon()
        return
    # Of an earlier stage whose trackers failed: the workspace may still have them.
    directories = {**Results(root).missing_of(record.info), **directories}
    stderr = {"file": sys.stderr, "flush": True}
    notice = Timer(
        SECONDS_UNTIL_NOTICE, print, [f"syncing {record.info.name} …"], stderr
    )
    if in_foreground:
        notice.start()
    try:
        _end(connections, directories, stage, in_foreground=in_foreground)
    finally:
        notice.cancel()


def _end(
    connections: list[Connection],
    directories: Mapping[str, Path],
    stage: Stage | None,
    *,
    in_foreground: bool,
) -> None:
    """End the run at the trackers, until they have everything or time is up."""
    for connection in connections:
        connection.try_at_once()
    ended = (stage and stage.ended) or monotonic()
    while connections:
        for connection in connections:
            is_alone = stage is not None and not stage.is_alive()
            patience = (
                PATIENCE_WITHOUT_STAGE_SECONDS if is_alone else PATIENCE_AT_END_SECONDS
            )
            limit = ended + patience - monotonic()
            if in_foreground:
                limit = PATIENCE_FOR_UPLOADS_SECONDS
            connection.sync(directories, is_last=True, limit_seconds=limit)
        connections = [it for it in connections if not it.is_settled]
        if monotonic() > ended + PATIENCE_WITH_FAILURE_SECONDS:
            return
        if connections:
            sleep(POLL_SECONDS)


@contextmanager
def syncing(folder: Path, *, is_patient: bool = False) -> Iterator[Record]:
    """Yield the record of a folder, whose trackers no other process syncs meanwhile.

    Raises:
        BlockingIOError: Another process syncs them, and this one does not wait.
        InputError: The record is damaged.
    """
    with locked(folder / SYNC_LOCK_FILE, wait=is_patient):
        yield Record(folder)


def bring_up_to_date(
    tracking: TrackingParams,
    root: Path,
    *,
    except_run: str | None = None,
    is_quiet: bool = False,
    in_foreground: bool = False,
    stage: Stage | None = None,
) -> list[str]:
    """Sync what the trackers missed, and end the runs whose process is gone.

    Args:
        tracking: Which trackers.
        root: The project that the user works in.
        except_run: Id of a record to leave as it is.
        is_quiet: Whether failing trackers cause no warning.
        in_foreground: Whether a user waits.
        stage: The process that asked for it: after its end no other run is begun.

    Returns:
        The names of the runs that a tracker has more of now.
    """
    names = []
    workspace = Results(root)
    responsive = wanted_trackers(tracking)
    # The newest first: an old one that a tracker refuses must not hold it back.
    for folder, info in reversed(list(all_infos(root))):
        if stage is not None and not stage.is_alive():
            break
        if info.id == except_run or _is_settled(folder, info, responsive, workspace):
            continue
        try:
            with syncing(folder) as record:
                if not record.end_if_dead():
                    continue
                at_hand = workspace.missing_of(record.info)
                before = record.unsynced(responsive, at_hand=at_hand)
                sync(
                    record,
                    tracking,
                    root,
                    only=before,
                    is_quiet=is_quiet,
                    in_foreground=in_foreground,
                )
        except BlockingIOError:
            continue
        except (InputError, OSError) as error:
            warn(f"the training {info.name} is left as it is: {error}")
            continue
        after = record.unsynced(responsive, at_hand=at_hand)
        if any(record.info.synced[name].is_wanted for name in {*before} - {*after}):
            names.append(info.name)
        # A tracker that failed once is not tried with every run.
        responsive = [name for name in responsive if name not in after]
    return names


def _is_settled(
    folder: Path, info: RunInfo, trackers: Iterable[str], workspace: Results
) -> bool:
    """Return whether a run has ended, and these trackers have all that is at hand."""
    num_points = count_points(folder / POINTS_FILE)
    return info.status != "RUNNING" and not info.unsynced(
        trackers, num_points, at_hand=workspace.missing_of(info)
    )


@contextmanager
def _earlier_runs_beside(
    folder: Path, tracking: TrackingParams, root: Path, stage: Stage
) -> Iterator[None]:
    """Sync the earlier runs in another process: each of them may take minutes.

    And W&B, which ends its own process with a run, has one for each of ours.
    """
    trackers = wanted_trackers(tracking)
    workspace = Results(root)
    is_needed = any(
        path != folder
        and not _is_settled(path, info, trackers, workspace)
        and holder_of(path / SYNC_LOCK_FILE) is None  # its own process syncs it
        for path, info in all_infos(root)
    )
    if not is_needed:
        yield
        return
    command = [sys.executable, "-P", "-m", "toygpt.tracking.sync", str(folder)]
    process = subprocess.Popen(
        [*command, tracking.model_dump_json(), EARLIER], stdin=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_WITH_EARLIER_SECONDS if stage.is_alive() else 0)
        process.kill()
        process.wait()


def follow(folder: Path, tracking: TrackingParams, root: Path) -> None:
    """Sync a record beside the stage that writes it.

    Args:
        folder: Of the record.
        tracking: Which trackers.
        root: The project that the user works in.
    """
    stage = Stage()
    with _earlier_runs_beside(folder, tracking, root, stage):
        while stage.is_alive():
            # Another process may still be syncing what an earlier stage has logged.
            with suppress(BlockingIOError), syncing(folder) as record:
                sync(record, tracking, root, stage=stage)
                return
            sleep(POLL_SECONDS)


def main(arguments: list[str]) -> None:
    """Follow the run whose folder is the first argument, to the trackers of the second.

    With a third argument, sync the runs before it. The stage gives the directories to
    copy on standard input, last of all. Signals that the terminal sends to all of a
    command's processes are ignored: this process ends soon after its stage.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    folder = Path(arguments[0])
    tracking = TrackingParams.model_validate_json(arguments[1])
    root = folder.parents[2]
    try:
        if arguments[2:] == [EARLIER]:  # if a tracker fails, the run will warn of it
            bring_up_to_date(
                tracking, root, except_run=folder.name, is_quiet=True, stage=Stage()
            )
        else:
            follow(folder, tracking, root)
    except (InputError, OSError):  # the record is deleted, damaged, or out of reach
        sys.exit(1)  # the stage will say that a process has ended
    finally:  # W&B may wait for its own process at the end of Python, for ever
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS_TO_EXIT)


if __name__ == "__main__":
    main(sys.argv[1:])
