"""Bring the trackers up to date with the records, in a process beside the training.

A stage starts it, with `python -m toygpt.tracking.sync FOLDER TRACKING`.

Live, late and once more after a loss are the same: what a tracker has is compared with
what the record has, and the rest is logged.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.lock import Holder, locked
from toygpt.pipeline.params import TrackingParams
from toygpt.tracking.connection import Connection
from toygpt.tracking.mlflow import MLflowTracker
from toygpt.tracking.points import count_points
from toygpt.tracking.record import POINTS_FILE, SYNC_LOCK_FILE, Record
from toygpt.tracking.run_info import all_infos, wanted_trackers
from toygpt.tracking.tracker import Tracker
from toygpt.tracking.wandb import WandbTracker

POLL_SECONDS = 0.2
# How long a tracker has while its stage works: another one waits for it, and W&B has 30
# seconds to open a run. How long the trackers have at the end of a run (W&B's own limit
# for an upload is 60 seconds), if its stage was killed, and if they fail.
PATIENCE_WHILE_TRAINING_SECONDS = 35.0
PATIENCE_SECONDS = 90.0
PATIENCE_WITHOUT_STAGE_SECONDS = 20.0
PATIENCE_WITH_FAILURE_SECONDS = 10.0
SECONDS_TO_EXIT = 10

OPEN: dict[str, Callable[..., Tracker]] = {
    "mlflow": MLflowTracker,
    "wandb": WandbTracker,
}


def sync(
    record: Record,
    tracking: TrackingParams,
    root: Path,
    *,
    stage: Holder | None = None,
    directories: Callable[[], Mapping[str, Path]] = dict,
    only: Collection[str] | None = None,
    is_quiet: bool = False,
) -> None:
    """Keep the trackers up to date with a record, and end the run as its stage does.

    The caller is alone in `syncing` the record.

    Args:
        record: May be written by a stage meanwhile.
        tracking: Which trackers.
        root: The project that the user works in.
        stage: The process that is writing the record, if one is.
        directories: Returns, once the stage has ended, of which directories the
            trackers shall keep a copy.
        only: Names of the trackers to sync, of those; by default all.
        is_quiet: Whether failing trackers cause no warning.
    """
    connections = []
    for name in wanted_trackers(tracking):
        if name in record.info.trackers and (only is None or name in only):
            kind = name.partition(":")[0]  # of `mlflow:ADDRESS`
            opened = partial(OPEN[kind], tracking=tracking, root=root)
            connections.append(Connection(name, record, opened, is_quiet=is_quiet))

    while stage is not None and record.writer() == stage:
        with suppress(InputError, OSError):  # the user has deleted it, say
            record.refresh()
        for connection in connections:
            connection.sync({}, limit_seconds=PATIENCE_WHILE_TRAINING_SECONDS)
        sleep(POLL_SECONDS)

    if not record.end_if_dead():  # another stage continues the run
        for connection in connections:
            connection.abandon()
        return
    is_alone = stage is not None and stage.process != os.getppid()
    patience = PATIENCE_WITHOUT_STAGE_SECONDS if is_alone else PATIENCE_SECONDS
    ended, to_copy = monotonic(), directories()
    for connection in connections:
        connection.try_at_once()
    while connections:
        for connection in connections:
            left = ended + patience - monotonic()
            connection.sync(to_copy, is_last=True, limit_seconds=left)
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
    is_needed: Callable[[], bool] = lambda: True,
) -> list[str]:
    """Sync what the trackers missed, and end the runs whose process is gone.

    Args:
        tracking: Which trackers.
        root: The project that the user works in.
        except_run: Id of a record to leave as it is.
        is_quiet: Whether failing trackers cause no warning.
        is_needed: Asked before each run: whether to continue.

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
        if info.id == except_run or is_settled or not is_needed():
            continue
        try:
            with syncing(folder) as record:
                if not record.end_if_dead():
                    continue
                before = record.unsynced(responsive)
                sync(record, tracking, root, only=before, is_quiet=is_quiet)
        except BlockingIOError:
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


def follow(folder: Path, tracking: TrackingParams, root: Path) -> None:
    """Sync a record beside the stage that writes it; before that, all earlier records.

    Args:
        folder: Of the record.
        tracking: Which trackers.
        root: The project that the user works in.
    """
    parent = os.getppid()

    def directories() -> dict[str, Path]:
        """Read what the stage writes last; one that was killed has written nothing."""
        line = sys.stdin.readline() if os.getppid() == parent else ""
        return {name: Path(path) for name, path in json.loads(line or "{}").items()}

    record = Record(folder)
    stage = record.writer()
    bring_up_to_date(
        tracking,
        root,
        except_run=folder.name,
        is_quiet=True,  # if a tracker fails, this run will warn of it
        is_needed=lambda: stage is not None and record.writer() == stage,
    )
    while os.getppid() == parent:
        # Another process may still be syncing what an earlier stage has logged.
        with suppress(BlockingIOError), syncing(folder) as record:
            sync(record, tracking, root, stage=stage, directories=directories)
            return
        sleep(POLL_SECONDS)


def main(arguments: list[str]) -> None:
    """Follow the run whose folder is the first argument, to the trackers of the second.

    The stage gives the directories to copy on standard input, last of all. Signals that
    the terminal sends to all of a command's processes are ignored: this process ends
    soon after its stage.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    folder = Path(arguments[0])
    tracking = TrackingParams.model_validate_json(arguments[1])
    try:
        follow(folder, tracking, folder.parents[2])
    except (InputError, OSError):  # the record is deleted, damaged, or out of reach
        sys.exit(1)  # the stage will say that a process has ended
    finally:  # W&B may wait for its own process at the end of Python, for ever
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS_TO_EXIT)


if __name__ == "__main__":
    main(sys.argv[1:])
