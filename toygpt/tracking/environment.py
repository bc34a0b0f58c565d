"""Where a run ran, as metadata: code, experiment, versions, machine."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from toygpt.pipeline import paths
from toygpt.pipeline.git import git_or_nothing

PACKAGES = ("torch", "lightning-fabric", "transformers")

# Files that are not code: a run has its parameters and the digests of its corpus, with
# or without a commit of them, and the stages rewrite the rest. (`:!` excludes a path.)
NOT_CODE = [
    f":!{path}" for path in (paths.PARAMS, paths.TEXTS, paths.LOCK, paths.METRICS)
]


def describe_environment(device_name: str) -> dict[str, str]:
    """Return the commit, the experiment, the job, the packages' versions, the device.

    Also the name that the run shall have in MLflow, if the user chose one.

    Args:
        device_name: Of the GPU or the processor that trains.
    """
    metadata = {
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "device": device_name,
    }
    for key, variable in (
        ("dvc.experiment", "DVC_EXP_NAME"),
        ("dvc.baseline", "DVC_EXP_BASELINE_REV"),
        ("mlflow.runName", "MLFLOW_RUN_NAME"),  # as MLflow calls it
        ("slurm.job", "SLURM_JOB_ID"),  # `python . resume --check` asks for it
    ):
        if value := os.environ.get(variable):
            metadata[key] = value
    here = Path.cwd()
    if commit := git_or_nothing(here, "rev-parse", "HEAD"):
        changed = git_or_nothing(here, "status", "--porcelain", "--", ".", *NOT_CODE)
        metadata["git.commit"] = commit
        metadata["git.dirty"] = "true" if changed else "false"
    return metadata


def run_name(model: str, corpus: str) -> str:
    """Return the experiment's name; outside an experiment, what was trained."""
    if experiment := os.environ.get("DVC_EXP_NAME"):
        return experiment
    commit = git_or_nothing(Path.cwd(), "rev-parse", "--short", "HEAD") or "no-commit"
    return f"{model}-{corpus}-{commit}"
