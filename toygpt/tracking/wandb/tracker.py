"""Weights & Biases: a run in the main workspace's wandb/ folder, online if wanted."""

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from toygpt.pipeline.errors import first_line
from toygpt.pipeline.params import TrackingParams
from toygpt.pipeline.warning import warn
from toygpt.tracking.points import Known, Point
from toygpt.tracking.run_info import RunInfo, Status
from toygpt.tracking.wandb.files import WandbRun, folders_of, read_runs
from toygpt.tracking.wandb.folders import join_folders
from toygpt.tracking.wandb.process import (
    configure_wandb,
    opening_wandb,
    temporary_files_in_project,
)
from toygpt.tracking.wandb.settings import PREFIX, kept_settings

SECONDS_TO_OPEN = 30
SECONDS_TO_UPLOAD = 60
EXIT_CODES: dict[Status, int] = {"FINISHED": 0, "FAILED": 1, "KILLED": 130}
LONGEST_NAME = 128  # of an artifact


class WandbTracker:
    """A run in W&B: the one of this record, whose id it has.

    W&B makes a folder each time that a run is opened. Offline, they are joined.
    """

    def __init__(self, info: RunInfo, tracking: TrackingParams, root: Path) -> None:
        configure_wandb(root, is_online=tracking.wandb == "online")
        self._info = info
        self._settings = kept_settings(info.metadata)
        self._registry = tracking.wandb_registry
        self._metadata: dict[str, str] = {}
        self._results: dict[str, float] = {}
        self._uploads: dict[str, Any] = {}  # artifacts, by their directory's name
        self._folder = _folder_of(info, root)
        (self._folder / "wandb").mkdir(parents=True, exist_ok=True)
        if not os.access(self._folder / "wandb", os.W_OK):  # W&B would go elsewhere
            raise PermissionError(f"{self._folder / 'wandb'} cannot be written")
        self.run_id = _id_of(info)
        before = folders_of(self._folder, self.run_id)
        try:
            with opening_wandb(root, self._settings.get("sweep_id")):
                self._open(info, tracking)
        except Exception:
            _end_process()
            for folder in folders_of(self._folder, self.run_id) - before:
                shutil.rmtree(folder, ignore_errors=True)  # there may be many tries
            raise

    def _open(self, info: RunInfo, tracking: TrackingParams) -> None:
        import wandb

        mode = tracking.wandb
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            _warn_of_missing_key()
            mode = "offline"
        settings = self._settings
        tags = [f"{key}: {value}" for key, value in info.tags.items()]
        if "tags" in settings:
            tags = [tag.strip() for tag in settings["tags"].split(",") if tag.strip()]
        self._run = wandb.init(
            entity=settings.get("entity"),
            project=settings.get("project", info.project),
            id=self.run_id,
            name=settings.get("name", info.name),
            group=settings.get("group"),
            job_type=settings.get("job_type"),
            notes=settings.get("notes"),
            dir=self._folder,
            mode=mode,
            resume="allow",
            config=info.params,
            tags=tags,
            settings=wandb.Settings(
                sweep_id=settings.get("sweep_id"),
                console="off",
                disable_git=True,  # an address of a remote may hold a password
                save_code=False,
                use_dot_wandb=False,  # `.wandb` instead of `wandb`, where it exists
                reinit="create_new",  # leave a run that failed to open alone
                init_timeout=SECONDS_TO_OPEN,
                finish_timeout=SECONDS_TO_UPLOAD,
            ),
        )
        self.run_id = self._run.id
        # Uploads are not in the files of a run that was online.
        before = info.synced.get("wandb")
        self._uploaded = (
            set(before.directories) if before and mode == "online" else set()
        )
        self._look_up()
        self._run.define_metric("*", step_metric="step")
        # `wandb sync` replaces the summary by that of a folder which it uploads later.
        last = {name: value for (_, name), value in sorted(self.known.items())}
        self._run.summary.update(last)

    def log_metadata(self, metadata: Mapping[str, str]) -> None:
        """Add to the run's config: W&B has no other place for metadata."""
        self._metadata |= metadata
        config = {key: metadata[key] for key in metadata if not key.startswith(PREFIX)}
        self._run.config.update(config, allow_val_change=True)

    def log_points(self, points: Sequence[Point]) -> None:
        """Add the points to their curves, and results to the summary.

        W&B counts its own steps, one for each call: ours is the curves' x-axis.
        """
        for point in points:
            if point.step is None:
                self._results |= point.metrics
                self._run.summary.update(point.metrics)
            else:
                self._run.log(
                    {**point.metrics, "step": point.step, "_timestamp": point.time}
                )

    def log_directory(self, directory: Path, *, name: str) -> None:
        """Keep the directory as a version of an artifact; the name is its type."""
        import wandb

        artifact = wandb.Artifact(
            _artifact_name(self._info, name),
            type=name,
            metadata={
                **{key: self._metadata[key] for key in self._metadata if "sha" in key},
                **self._results,
                "params": dict(self._info.params),
            },
        )
        artifact.add_dir(str(directory))
        aliases = ["latest", _valid_name(self._info.name)]
        self._run.log_artifact(artifact, aliases=aliases)
        self._uploads[name] = artifact

    def _link(self, model: Any) -> None:
        """Link the model to the registry, or warn: the run and the model are there.

        Offline, W&B has no record that `wandb sync` would make a link of.
        """
        name = _artifact_name(self._info, "model")
        target = f"wandb-registry-{self._registry}/{name}"
        try:
            self._run.link_artifact(model, target, [_valid_name(self._info.name)])
        except TimeoutError:  # of the run, not of the link
            raise
        except Exception as error:
            warn(f"wandb did not link the model to {target}: {first_line(error)}")

    def close(self, status: Status, *, ended: float) -> None:
        """End the run, and look up what has arrived: on disk; artifacts, at the server.

        Raises:
            OSError: The run's end, which W&B writes last, has not.
        """
        import wandb

        if not self._run.offline:
            for artifact in self._uploads.values():
                artifact.wait()
            self._uploaded |= self._uploads.keys()
            if self._registry and "model" in self._uploads:
                self._link(self._uploads["model"])
        self._run.finish(exit_code=EXIT_CODES[status])
        wandb.teardown()  # returns when W&B's own process has written everything
        runs = read_runs(self._folder, self.run_id)
        if not runs or runs[-1].exit_code is None:
            raise OSError("its process ended before it had written everything")
        join_folders(self._folder, self.run_id)
        self._look_up()

    def _look_up(self) -> None:
        """Note what is on disk, from each time that the run was opened."""
        runs = read_runs(self._folder, self.run_id)
        self.known = _points_of(runs)
        on_disk = {kind for run in runs for kind in run.artifacts.values()}
        self.directories = on_disk | self._uploaded

    def abandon(self) -> None:
        """Release W&B's process, which may be gone."""
        with suppress(Exception):
            self._run.finish()
        _end_process()


def _end_process() -> None:
    with suppress(Exception):
        import wandb

        wandb.teardown()


def points_in_wandb(info: RunInfo, root: Path) -> Known | None:
    """Return the points of a run in its wandb/ folder; None if it is not there.

    Raises:
        ImportError: W&B is not installed.
        OSError: Its files cannot be read.
    """
    with temporary_files_in_project(root):  # reading imports W&B
        runs = read_runs(_folder_of(info, root), _id_of(info))
    return _points_of(runs) if runs else None


def _id_of(info: RunInfo) -> str:
    """Return the run's id: the record's, or that of a sweep's agent."""
    return kept_settings(info.metadata).get("run_id", info.id)


def _folder_of(info: RunInfo, root: Path) -> Path:
    """Return the folder in which W&B makes its own: the project, or WANDB_DIR."""
    return root / kept_settings(info.metadata).get("folder", "")


def _points_of(runs: Iterable[WandbRun]) -> Known:
    return {
        (row["step"], name): value
        for run in runs
        for row in run.history
        if "step" in row
        for name, value in row.items()
    }


def _artifact_name(info: RunInfo, kind: str) -> str:
    """Return the name whose versions are of the same corpus and size."""
    parts: list[Any] = ["toygpt", info.params.get("corpus"), info.params.get("model")]
    if kind != "model":
        parts.append(kind)
    return _valid_name("-".join(str(part) for part in parts if part))


def _valid_name(name: str) -> str:
    """Return a name that W&B accepts for artifacts and their aliases."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:LONGEST_NAME]


@cache
def _warn_of_missing_key() -> None:
    warn(
        "wandb has no API key and keeps the run offline: run `wandb login`, then "
        "`wandb sync`"
    )
