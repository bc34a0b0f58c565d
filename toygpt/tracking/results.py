"""The pipeline's results as a record, for a model that was not trained here.

A model that DVC restored from its cache, or pulled, was trained in another folder or on
another machine. Its parameters, curves and metrics are in the pipeline's own results:
they make a record like that of a training here.
"""

import csv
import hashlib
import io
import json
import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import temporary_directory
from toygpt.pipeline.git import git_or_nothing
from toygpt.pipeline.measurements import is_of_this_model
from toygpt.pipeline.params import TrackingParams, flatten
from toygpt.pipeline.params_file import load_params, read_yaml
from toygpt.pipeline.revision import Revision
from toygpt.tracking.points import Point
from toygpt.tracking.record import Record
from toygpt.tracking.run_info import RunInfo, wanted_trackers
from toygpt.tracking.wandb.settings import settings_of_run, to_metadata

# What reading results raises: files that are gone, damaged, or of another version.
UNREADABLE = (AttributeError, InputError, KeyError, OSError, TypeError, ValueError)


class Results:
    """The pipeline's results in the workspace, or at a revision."""

    def __init__(
        self, root: Path, revision: str | None = None, *, name: str | None = None
    ) -> None:
        self.root = root
        self.revision = revision
        self.name = name
        self._files = Revision(root, revision)

    @cached_property
    def weights_sha256(self) -> str:
        """The digest of the model's weights, by which its record is found."""
        with self._files.open(paths.MODEL / "model.safetensors") as file:
            digest = hashlib.sha256()
            while piece := file.read(2**20):
                digest.update(piece)
        return digest.hexdigest()

    def make_record(self, tracking: TrackingParams) -> Record:
        """Create a record from the parameters, the curves and the metrics."""
        params = self._params()
        curves = self._curves()
        results = self._results()
        now = time.time()
        points = [Point(step, now, curves[step]) for step in sorted(curves)]
        return Record.create(
            self.root,
            [*points, Point(None, now, results)],
            name=self.name or f"{params['model']}-{params['corpus']}-restored",
            project=tracking.project,
            params=params,
            tags=tracking.tags,
            trackers=wanted_trackers(tracking),
            status="FINISHED",
            started=now,
            ended=now,
            metadata={
                "restored.from": self.revision or "the workspace",
                "weights.sha256": self.weights_sha256,
                **to_metadata(settings_of_run(tracking, self.root)),
            },
            weights_sha256=self.weights_sha256,
        )

    def _params(self) -> dict[str, Any]:
        """Return the parameters as a training logs them: 3.0, even if 3 is written."""
        with temporary_directory(self.root / paths.TEMPORARY) as folder:
            path = folder / paths.PARAMS.name
            path.write_text(self._files.read(paths.PARAMS), encoding="utf-8")
            try:
                return load_params(path).in_use()
            except InputError:  # of a version with other keys
                return dict(flatten(read_yaml(path)))

    @contextmanager
    def directories(self) -> Iterator[dict[str, Path]]:
        """Yield the directories of which the trackers keep a copy."""
        made = {"model": paths.MODEL}
        for stage, name, path in (
            ("evaluate", "evaluation", paths.EVALUATION),
            ("generate-samples", "samples", paths.SAMPLES),
        ):
            if self._is_of_this_model(stage):
                made[name] = path
        with ExitStack() as stack:
            folders = {name: self.root / path for name, path in made.items()}
            if self.revision is not None:
                temporary = temporary_directory(self.root / paths.TEMPORARY)
                copies = stack.enter_context(temporary)
                folders = {name: copies / name for name in made}
                for name, path in made.items():
                    with suppress(Exception):  # DVC's are many: the copy is not there
                        self._files.copy(path, folders[name])
            yield {name: path for name, path in folders.items() if path.is_dir()}

    def missing_of(self, info: RunInfo) -> dict[str, Path]:
        """Return the workspace's directories, if a tracker misses some of this run."""
        if any(has.missing for has in info.synced.values()):
            with suppress(*UNREADABLE):
                if self.weights_sha256 == info.weights_sha256:
                    with self.directories() as directories:
                        return directories
        return {}

    def _curves(self) -> dict[int, dict[str, float]]:
        """Return the metrics of each step, by their names in the trackers."""
        curves: dict[int, dict[str, float]] = {}
        for name in ("train", "validation"):
            text = io.StringIO(self._files.read(paths.TRAIN_REPORT / f"{name}.csv"))
            for row in csv.DictReader(text):
                metrics = curves.setdefault(int(row["step"]), {})
                for column, value in row.items():
                    # Earlier versions called both losses `loss`.
                    metric = f"{name}_loss" if column == "loss" else column
                    # NaN: a metric that this training does not have.
                    if column != "step" and not math.isnan(float(value)):
                        metrics[metric] = float(value)
        return curves

    def _results(self) -> dict[str, float]:
        """Return the results of the training, and of the evaluation of this model."""
        metrics = json.loads(self._files.read(paths.METRICS / "train.json"))
        results = {name: metrics[name] for name in ("parameters", "steps")}
        return results | self.evaluation()

    def evaluation(self) -> dict[str, float]:
        """Return the results of the evaluation, if it was of this model."""
        if not self._is_of_this_model("evaluate"):
            return {}
        try:
            metrics = json.loads(self._files.read(paths.METRICS / "evaluate.json"))
        except FileNotFoundError:  # deleted; the other results do not need it
            return {}
        return {name: float(value) for name, value in metrics.items()}

    def _is_of_this_model(self, stage: str) -> bool:
        """Return whether a stage's results are of this model, not of an earlier one."""
        with suppress(FileNotFoundError):
            return is_of_this_model(self._files.read(paths.LOCK), stage)
        return False  # only dvc.lock knows


def all_results(root: Path, revisions: Sequence[str]) -> Iterator[Results]:
    """Yield the results of these revisions, of all experiments, and of the workspace.

    The workspace comes last: where it holds the results of an experiment, the
    experiment has a better name for them.
    """
    for revision in revisions:
        yield Results(root, revision, name=revision)
    listing = git_or_nothing(
        root, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps"
    )
    for line in listing.splitlines():
        commit, _, reference = line.partition(" ")
        # DVC keeps an experiment under the commit that it began from.
        if match := re.fullmatch(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)", reference):
            yield Results(root, commit, name=match[1])
    yield Results(root)
