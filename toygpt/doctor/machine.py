"""Check the machine and params.yaml."""

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from toygpt.doctor.finding import Finding, Line, number_of, readable_size
from toygpt.pipeline import paths
from toygpt.pipeline.dvc_errors import dvc_errors
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import Params
from toygpt.pipeline.params_file import load_params

LEAST_FREE_BYTES = 10**9
# A dependency of `download` in dvc.yaml, even if another corpus is chosen.
WATCHED_FOLDER = "corpora.files.folder"

PACKAGES = ("torch", "lightning-fabric", "transformers", "dvc", "mlflow", "wandb")


def check_machine(root: Path) -> Iterator[Line]:
    """Describe the hardware, the disk and the packages."""
    from toygpt.model.device import device_for, device_name

    params = valid_params(root)
    try:
        device = device_for(params.runtime.accelerator if params else "auto")
    except InputError as error:
        yield Finding(str(error), f"${{EDITOR:-vi}} {paths.PARAMS}")
        device = device_for("auto")
    memory = psutil.virtual_memory()
    yield (
        f"{device.type}: {device_name(device)}; "
        f"{number_of(os.cpu_count() or 1, 'core')}, "
        f"{readable_size(memory.total)} of memory, "
        f"{readable_size(memory.available)} free"
    )
    free = shutil.disk_usage(root).free
    if free < LEAST_FREE_BYTES:
        yield Finding(
            f"only {readable_size(free)} of the disk is free", _make_room(root)
        )
    else:
        yield f"{readable_size(free)} of the disk is free"
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            yield Finding(f"{package} is not installed", "uv sync")
    yield ", ".join(versions)


def _make_room(root: Path) -> str:
    """Return the command that removes from DVC's cache what no experiment needs.

    A cache outside the project may be shared: then the results of the other clones have
    to stay.
    """
    from dvc.repo import Repo

    command = "dvc gc --all-commits --all-experiments"
    try:
        with dvc_errors(), Repo(str(root)) as repo:
            cache = Path(repo.cache.local.path).resolve()
    except InputError:  # as without a Git repository, which has its own finding
        return command
    if cache.is_relative_to(root.resolve()):
        return command
    return f"{command} --projects FOLDER_OF_EACH_OTHER_CLONE"


def check_params(root: Path) -> Iterator[Line]:
    """Check params.yaml."""
    try:
        expanded = load_params(root / paths.PARAMS).expanded_folders()
    except InputError as error:
        yield Finding(str(error), f"${{EDITOR:-vi}} {paths.PARAMS}")
        return
    yield f"{paths.PARAMS} is valid"
    if (folder := expanded.get(WATCHED_FOLDER)) is not None:
        yield Finding(
            f"DVC does not expand the `~` of {WATCHED_FOLDER}, and would look for a "
            f"folder of that name: write {folder} (`python . train` does so itself)",
            f"${{EDITOR:-vi}} {paths.PARAMS}",
        )


def valid_params(root: Path) -> Params | None:
    """Return the parameters if they are valid; if not, `check_params` has a finding."""
    with suppress(InputError):
        return load_params(root / paths.PARAMS)
    return None
