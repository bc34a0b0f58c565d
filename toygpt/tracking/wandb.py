"""Weights & Biases: a run in the main workspace's wandb/ folder, online if wanted."""

import atexit
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from toygpt.pipeline.files import temporary_directory
from toygpt.pipeline.params import TrackingParams
from toygpt.tracking.points import Known, Point
from toygpt.tracking.run_info import RunInfo, Status
from toygpt.tracking.wandb_files import WandbRun, read_runs

EXIT_CODES: dict[Status, int] = {"FINISHED": 0, "FAILED": 1, "KILLED": 130}


class WandbTracker:
    """A run in W&B: the one of this record, whose id it has.

    W&B keeps a folder for each time that a run is opened; `wandb sync` joins them.
    """

    def __init__(self, info: RunInfo, tracking: TrackingParams, root: Path) -> None:
        folder = str(root / ".toygpt" / "wandb")
        os.environ["WANDB_DATA_DIR"] = os.environ["WANDB_CACHE_DIR"] = folder
        if tracking.wandb != "online":  # where `wandb login` has noted a server
            os.environ["WANDB_CONFIG_DIR"] = folder
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        os.environ["WANDB_SILENT"] = "true"
        (root / "wandb").mkdir(exist_ok=True)
        if not os.access(root / "wandb", os.W_OK):  # W&B would go elsewhere
            raise PermissionError(f"{root / 'wandb'} cannot be written")
        with _temporary_files_in(_temporary_folder(root)):
            self._open(info, tracking, root)

    def _open(self, info: RunInfo, tracking: TrackingParams, root: Path) -> None:
        import wandb

        mode = tracking.wandb
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            _warn_of_missing_key()
            mode = "offline"
        self.run_id = info.id
        self._root = root
        self._look_up()
        self._run = wandb.init(
            project=info.project,
            id=self.run_id,
            name=info.name,
            dir=root,
            mode=mode,
            resume="allow",
            config=info.params,
            tags=[f"{key}: {value}" for key, value in info.tags.items()],
            settings=wandb.Settings(
                console="off",
                disable_git=True,  # an address of a remote may hold a password
                save_code=False,
                reinit="create_new",  # leave a run that failed to open alone
                init_timeout=30,
                finish_timeout=60,
            ),
        )
        self._run.define_metric("*", step_metric="step")

    def log_metadata(self, metadata: Mapping[str, str]) -> None:
        """Add to the run's config: W&B has no other place for metadata."""
        self._run.config.update(dict(metadata), allow_val_change=True)

    def log_points(self, points: Sequence[Point]) -> None:
        """Add the points to their curves, and results to the summary.

        W&B counts its own steps, one for each call: ours is the curves' x-axis.
        """
        for point in points:
            if point.step is None:
                self._run.summary.update(point.metrics)
            else:
                self._run.log(
                    {**point.metrics, "step": point.step, "_timestamp": point.time}
                )

    def log_directory(self, directory: Path, *, name: str) -> None:
        """Keep the directory as an artifact of the run."""
        import wandb

        artifact = wandb.Artifact(f"{name}-{self.run_id}", type=name)
        artifact.add_dir(str(directory))
        self._run.log_artifact(artifact)

    def close(self, status: Status, *, ended: float) -> None:
        """End the run, and look up what has arrived on disk.

        Raises:
            OSError: The run's end, which W&B writes last, has not.
        """
        import wandb

        self._run.finish(exit_code=EXIT_CODES[status])
        wandb.teardown()  # returns when W&B's own process has written everything
        self._look_up()
        runs = read_runs(self._root, self.run_id)
        if not runs or runs[-1].exit_code is None:
            raise OSError("its process ended before it had written everything")

    def _look_up(self) -> None:
        runs = read_runs(self._root, self.run_id)
        self.known = _points_of(runs)
        artifacts = {name for run in runs for name in run.artifacts}
        self.directories = {name.removesuffix(f"-{self.run_id}") for name in artifacts}

    def abandon(self) -> None:
        """Release W&B's process, which may be gone."""
        import wandb

        for release in (self._run.finish, wandb.teardown):
            with suppress(Exception):
                release()


@cache
def _temporary_folder(root: Path) -> Path:
    """Return a folder for W&B's temporary files, removed when this process ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    parent = root / ".toygpt" / "wandb" / "tmp"
    return stack.enter_context(temporary_directory(parent))


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Put temporary files there: those of Python and of processes started meanwhile.

    W&B's processes create sockets, whose path may have 107 bytes at most. They get the
    path relative to the working directory, which is in the project.
    """
    folder.mkdir(parents=True, exist_ok=True)  # it may have been deleted
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir = str(folder)
    os.environ["TMPDIR"] = min(str(folder), os.path.relpath(folder), key=len)
    try:
        yield
    finally:
        tempfile.tempdir = before
        if variable is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = variable


def points_in_wandb(info: RunInfo, root: Path) -> Known | None:
    """Return the points of a run in the wandb/ folder; None if the run is not there."""
    try:
        with _temporary_files_in(_temporary_folder(root)):  # reading imports W&B
            runs = read_runs(root, info.id)
    except (ImportError, OSError):  # the tracker itself will report what is wrong
        return None
    return _points_of(runs) if runs else None


def _points_of(runs: Iterable[WandbRun]) -> Known:
    return {
        (row["step"], name): value
        for run in runs
        for row in run.history
        if "step" in row
        for name, value in row.items()
    }


@cache
def _warn_of_missing_key() -> None:
    print(
        "warning: wandb has no API key and keeps the run offline: run `wandb login`, "
        "then `wandb sync`",
        file=sys.stderr,
        flush=True,
    )
