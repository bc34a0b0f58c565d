"""What a run should remember of where it ran: code, experiment, versions, machine."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from toygpt import paths
from toygpt.model.device import device_for

PACKAGES = ("torch", "lightning", "transformers")

# What is not code: a run has its parameters and the digests of its corpus, with or
# without a commit of them, and the stages rewrite the rest. (`:!` excludes a path.)
NOT_CODE = [
    f":!{path}" for path in (paths.PARAMS, paths.TEXTS, paths.LOCK, paths.METRICS)
]


def describe_surroundings(accelerator: str) -> dict[str, str]:
    """Return what is known of the code, the experiment, and the machine.

    Args:
        accelerator: As in `runtime.accelerator`; it decides which device is meant.
    """
    facts = {
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "device": device_name(device_for(accelerator)),
    }
    for fact, variable in (
        ("dvc.experiment", "DVC_EXP_NAME"),
        ("dvc.baseline", "DVC_EXP_BASELINE_REV"),
    ):
        if value := os.environ.get(variable):
            facts[fact] = value
    if commit := _git("rev-parse", "HEAD"):
        changed = _git("status", "--porcelain", "--", ".", *NOT_CODE)
        facts["git.commit"] = commit
        facts["git.dirty"] = "true" if changed else "false"
    return facts


def run_name(model: str, corpus: str) -> str:
    """Return the experiment's name; outside an experiment, what was trained."""
    if experiment := os.environ.get("DVC_EXP_NAME"):
        return experiment
    commit = _git("rev-parse", "--short", "HEAD") or "no-commit"
    return f"{model}-{corpus}-{commit}"


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    """Return what git answers, or nothing where there is no git or no repository."""
    try:
        answer = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return answer.stdout.strip()
