"""Tell the trackers whatever they do not know: what they missed, what they lost, and
trainings whose results came from elsewhere.

A model that DVC restored from its cache, or pulled, was trained in another folder or on
another machine. What is known of it is in the pipeline's own results: the parameters,
the curves, the metrics. They make a record like that of a training here.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from errno import ENOENT
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError, first_line
from toygpt.pipeline.files import temporary_directory
from toygpt.pipeline.measurements import is_of_this_model
from toygpt.pipeline.params import flatten
from toygpt.pipeline.params_file import load_params, read_yaml
from toygpt.tracking.record import (
    Point,
    Record,
    all_infos,
    known_of,
    record_of_weights,
)
from toygpt.tracking.run import (
    bring_up_to_date,
    forget_what_is_lost,
    tell_trackers,
    wanted_trackers,
)

if TYPE_CHECKING:
    from toygpt.pipeline.params import TrackingParams


@dataclass(frozen=True)
class Outcome:
    """What came of syncing, as the trackers confirmed it."""

    synced: list[str]  # names of the runs of which they have all now
    unsynced: dict[str, list[str]]  # by tracker: names of runs of which it lacks some


def track(
    root: Path,
    tracking: TrackingParams,
    *,
    revisions: Sequence[str] = (),
    is_rebuilding: bool = False,
) -> Outcome:
    """Bring the trackers up to date.

    Args:
        root: The project that the user works in.
        tracking: Which trackers, and the project's name there.
        revisions: Commits whose results are taken in, besides those of the workspace
            and of all experiments.
        is_rebuilding: Whether it is looked up what the trackers have, and not relied
            upon what they were told.

    Raises:
        InputError: There is no such revision, or it has no results.
    """
    if is_rebuilding:
        forget_what_is_lost(tracking, root)
    names = []
    lacking: dict[str, set[str]] = {}  # names of runs, by tracker
    responsive = tracking  # one that failed once is not asked for every run
    for revision, name in _revisions(root, revisions):
        results = Results(root, revision)
        try:
            record = record_of_weights(root, results.weights_sha256)
            if record is None:
                record = results.make_record(name, tracking)
            else:
                _add_evaluation(record, results.evaluation())
            with results.directories() as directories:
                if _lacking(record, directories, responsive):
                    tell_trackers(record, responsive, root, directories)
                    names.append(record.info.name)
                    failed = _lacking(record, directories, tracking)
                    for tracker in failed:
                        lacking.setdefault(tracker, set()).add(record.info.name)
                    responsive = responsive.without(failed)
        except FileNotFoundError as error:
            if revision in revisions:
                raise InputError(f"{revision} has no {error.filename}") from None
        except InputError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            place = revision or "the workspace"
            if revision is None or revision in revisions:
                raise InputError(
                    f"the results of {place} cannot be read: {error!r}"
                ) from None
    names += bring_up_to_date(responsive, root)
    for tracker, name in unsynced_runs(root, tracking):
        lacking.setdefault(tracker, set()).add(name)
    failed_names = set().union(*lacking.values())
    return Outcome(
        synced=[name for name in dict.fromkeys(names) if name not in failed_names],
        unsynced={tracker: sorted(found) for tracker, found in lacking.items()},
    )


def _add_evaluation(record: Record, evaluation: Mapping[str, float]) -> None:
    """Append what the record lacks of the results of the evaluation."""
    if missing := _missing_results(record, evaluation):
        with record.locked():
            record.append(missing, step=None)


def _missing_results(
    record: Record, evaluation: Mapping[str, float]
) -> dict[str, float]:
    """Return the results of the evaluation that the record lacks.

    It lacks them where DVC restored them from its run cache, or pulled them.
    """
    known = known_of(record.points)
    return {
        name: value for name, value in evaluation.items() if (None, name) not in known
    }


def unsynced_runs(root: Path, tracking: TrackingParams) -> Iterator[tuple[str, str]]:
    """Yield each tracker that lacks something of a run, and the run's name.

    A run that a process is at work on is synced by that process.
    """
    for folder, info in all_infos(root):
        with suppress(InputError):
            record = Record(folder)
            if not record.is_being_written():
                for tracker in _lacking(record, {}, tracking):
                    yield tracker, info.name


def _lacking(
    record: Record, directories: Mapping[str, Path], tracking: TrackingParams
) -> list[str]:
    """Return the trackers that have not all of a run, or no copy of a directory."""
    unsynced = record.info.untold(wanted_trackers(tracking), len(record.points))
    without_files = _lacking_files(record, directories, tracking)
    return list(dict.fromkeys([*unsynced, *without_files]))


def _lacking_files(
    record: Record, directories: Mapping[str, Path], tracking: TrackingParams
) -> list[str]:
    """Return the trackers that have the run, but no copy of a directory that exists."""
    wanted = set(wanted_trackers(tracking)) & set(record.info.trackers)
    return [
        name
        for name, told in record.info.told.items()
        if name in wanted
        and told.is_wanted
        and not directories.keys() <= set(told.directories)
    ]


def unsynced_results(
    root: Path, tracking: TrackingParams
) -> tuple[str, list[str]] | None:
    """Return the run of the workspace's model, and the trackers that lack its results.

    These are its files and the metrics of its evaluation. None if there is no such
    tracker, run or model.
    """
    results = Results(root, None)
    with suppress(AttributeError, InputError, KeyError, OSError, TypeError, ValueError):
        record = record_of_weights(root, results.weights_sha256)
        if record is not None and not record.is_being_written():
            with results.directories() as directories:
                trackers = _lacking_files(record, directories, tracking)
            if _missing_results(record, results.evaluation()):
                # `track` appends them to the record: then no tracker has all points.
                num_points = len(record.points) + 1
                trackers = record.info.untold(wanted_trackers(tracking), num_points)
            if trackers:
                return record.info.name, trackers
    return None


def _revisions(
    root: Path, wanted: Sequence[str]
) -> Iterator[tuple[str | None, str | None]]:
    """Yield the revisions to look at, and their names; the workspace has neither.

    It comes last: where it holds an experiment's results, that one has a better name.
    """
    for revision in wanted:
        yield revision, revision
    listing = subprocess.run(
        ["git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    for line in listing.stdout.splitlines():
        commit, _, reference = line.partition(" ")
        # DVC keeps an experiment under the commit that it began from.
        if match := re.fullmatch(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)", reference):
            yield commit, match[1]
    yield None, None


class Results:
    """What the pipeline left in the workspace, or at a revision."""

    def __init__(self, root: Path, revision: str | None) -> None:
        self.root = root
        self.revision = revision

    @cached_property
    def _files(self) -> Any:
        """The files of the revision, from Git, DVC's cache, or its remote."""
        from dvc.api import DVCFileSystem

        return DVCFileSystem(str(self.root), rev=self.revision)

    def _open(self, path: Path) -> Any:
        """Open a file for reading.

        Raises:
            FileNotFoundError: There is none; its `filename` says which.
        """
        if self.revision is None:
            return (self.root / path).open("rb")
        from dvc.scm import RevError

        try:
            return self._files.open(path.as_posix(), "rb")
        except RevError as error:
            raise InputError(first_line(error)) from None
        except Exception:  # DVC's are many
            raise FileNotFoundError(
                ENOENT, "neither here nor in DVC's cache", str(path)
            ) from None

    def _read(self, path: Path) -> str:
        with self._open(path) as file:
            return str(file.read().decode())

    @cached_property
    def weights_sha256(self) -> str:
        """The digest by which the model is known."""
        with self._open(paths.MODEL / "model.safetensors") as file:
            digest = hashlib.sha256()
            while piece := file.read(2**20):
                digest.update(piece)
        return digest.hexdigest()

    def make_record(self, name: str | None, tracking: TrackingParams) -> Record:
        """Make a record of what is known."""
        params = self._params()
        curves = self._curves()
        results = self._results()
        now = time.time()
        points = [Point(step, now, curves[step]) for step in sorted(curves)]
        return Record.create(
            self.root,
            [*points, Point(None, now, results)],
            name=name or f"{params['model']}-{params['corpus']}-restored",
            project=tracking.project,
            params=params,
            tags=tracking.tags,
            trackers=wanted_trackers(tracking),
            status="FINISHED",
            started=now,
            ended=now,
            facts={
                "restored.from": self.revision or "the workspace",
                "weights.sha256": self.weights_sha256,
            },
            weights_sha256=self.weights_sha256,
        )

    def _params(self) -> dict[str, Any]:
        """Return the parameters as a training logs them: where 3 means 3.0, so."""
        with temporary_directory(self.root / paths.TEMPORARY) as folder:
            path = folder / paths.PARAMS.name
            path.write_text(self._read(paths.PARAMS), encoding="utf-8")
            try:
                return load_params(path).in_use()
            except InputError:  # of a version with other keys
                return dict(flatten(read_yaml(path)))

    @contextmanager
    def directories(self) -> Iterator[dict[str, Path]]:
        """Yield the folders that the trackers keep a copy of."""
        made = {"model": paths.MODEL}
        if self._is_of_this_model("generate-samples"):
            made["samples"] = paths.SAMPLES
        with ExitStack() as stack:
            folders = {name: self.root / path for name, path in made.items()}
            if self.revision is not None:
                temporary = temporary_directory(self.root / paths.TEMPORARY)
                copies = stack.enter_context(temporary)
                folders = {name: copies / name for name in made}
                for name, path in made.items():
                    with suppress(Exception):  # DVC's are many: the copy is not there
                        self._files.get(
                            path.as_posix(), str(folders[name]), recursive=True
                        )
            yield {name: path for name, path in folders.items() if path.is_dir()}

    def _curves(self) -> dict[int, dict[str, float]]:
        """Return the metrics of each step, as they are called in the trackers."""
        curves: dict[int, dict[str, float]] = {}
        for name in ("train", "validation"):
            text = io.StringIO(self._read(paths.TRAIN_REPORT / f"{name}.csv"))
            for row in csv.DictReader(text):
                metrics = curves.setdefault(int(row["step"]), {})
                for column, value in row.items():
                    # Earlier versions called both losses `loss`.
                    metric = f"{name}_loss" if column == "loss" else column
                    # A metric that this training does not have is NaN.
                    if column != "step" and not math.isnan(float(value)):
                        metrics[metric] = float(value)
        return curves

    def _results(self) -> dict[str, float]:
        """Return the results of the training, and of the evaluation of this model."""
        metrics = json.loads(self._read(paths.METRICS / "train.json"))
        results = {name: metrics[name] for name in ("parameters", "steps")}
        return results | self.evaluation()

    def evaluation(self) -> dict[str, float]:
        """Return the results of the evaluation, if it was of this model."""
        if not self._is_of_this_model("evaluate"):
            return {}
        try:
            metrics = json.loads(self._read(paths.METRICS / "evaluate.json"))
        except FileNotFoundError:  # deleted: all else is known without it
            return {}
        return {name: float(value) for name, value in metrics.items()}

    def _is_of_this_model(self, stage: str) -> bool:
        """Say whether a stage's results are of this model, and not of one before."""
        with suppress(FileNotFoundError):
            return is_of_this_model(self._read(paths.LOCK), stage)
        return False  # without dvc.lock that is not known
