"""Compare an experiment with its baseline, as `dvc params diff` and its kin do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toygpt.pipeline import paths
from toygpt.pipeline.dvc_errors import dvc_errors
from toygpt.pipeline.errors import InputError, first_line
from toygpt.pipeline.revision import Revision
from toygpt.reporting.lock import changed_inputs, read_lock
from toygpt.reporting.verdict import Verdict, give_verdict

# The metrics of the model come first.
FIRST_METRICS = [str(paths.METRICS / f"{name}.json") for name in ("evaluate", "train")]
# What `dvc status` says of results that were never made here, or not pulled.
NOT_HERE = {"deleted", "not in cache"}


@dataclass(frozen=True)
class Change:
    """A parameter or a metric that differs; None on the side that lacks it."""

    name: str
    before: Any
    now: Any


@dataclass(frozen=True)
class Comparison:
    """What an experiment changed, and what came of it.

    Attributes:
        params: The stages' parameters that differ.
        inputs: The code and the user's files that dvc.lock has other digests of.
        metrics: The metrics that differ.
        verdict: Whether the experiment's model is better.
        outdated_stages: The stages that `dvc repro` would run again. Of a commit,
            those that ran with other parameters, code or data than it has.
        has_own_samples: Whether the experiment's samples are of its model.
    """

    params: list[Change]
    inputs: list[str]
    metrics: list[Change]
    verdict: Verdict
    outdated_stages: list[str]
    has_own_samples: bool


def compare(before: Revision, now: Revision, *, is_paired: bool = False) -> Comparison:
    """Compare an experiment with its baseline.

    Args:
        before: The baseline.
        now: The experiment.
        is_paired: Whether to evaluate both models again, for the noise of the
            difference.

    Raises:
        InputError: A revision does not exist, or has no test result of its own model.
    """
    from dvc.repo import Repo

    locks = read_lock(before), read_lock(now)
    names = [revision.name or "workspace" for revision in (before, now)]
    with dvc_errors(), Repo(str(now.root)) as repo:
        params = _changes(repo.params.diff(*names, deps_only=True))
        metrics = _changes(repo.metrics.diff(*names), first=FIRST_METRICS)
        outdated = _outdated_stages(repo, now)
    return Comparison(
        params=params,
        inputs=changed_inputs(*locks),
        metrics=metrics,
        verdict=give_verdict(before, now, *locks, is_paired=is_paired),
        outdated_stages=outdated,
        has_own_samples="generate-samples" in locks[1].measured,
    )


def _changes(diff: Mapping[str, Any], *, first: Sequence[str] = ()) -> list[Change]:
    """Return what `dvc metrics diff` or `dvc params diff` lists, some files first.

    Raises:
        InputError: A file is damaged. DVC takes all of its values for missing ones.
    """
    for revision, errors in diff.get("errors", {}).items():
        by_file = errors if isinstance(errors, dict) else {"the pipeline": errors}
        for file, error in by_file.items():
            if not isinstance(error, FileNotFoundError):  # its values are missing
                raise InputError(
                    f"DVC cannot read {file} of {revision}: {first_line(error)}"
                )
    files = diff.get("diff", {})
    return [
        Change(name, values.get("old"), values.get("new"))
        for file in sorted(files, key=lambda file: (file not in first, file))
        for name, values in sorted(files[file].items())
    ]


def _outdated_stages(repo: Any, now: Revision) -> list[str]:
    """Return the stages whose results are not of the parameters, code or data here."""
    if now.name is None:
        status = repo.status()
    else:  # which has no folder in which DVC could look for results
        with type(repo)(str(now.root), rev=now.name) as commit:
            status = {
                stage.name: [dependency.status() for dependency in stage.deps]
                for stage in commit.index.stages
                if stage.name
            }
    return [stage for stage, found in status.items() if set(_leaves(found)) - NOT_HERE]


def _leaves(status: Any) -> Iterator[str]:
    """Yield the words for the changes in an answer of `dvc status`."""
    if isinstance(status, str):
        yield status
        return
    for item in status.values() if isinstance(status, dict) else status:
        yield from _leaves(item)
