"""Check what training on several machines needs: a launcher, a job, and locks."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from toygpt.doctor.finding import Finding, Line, number_of
from toygpt.doctor.machine import valid_params
from toygpt.pipeline import paths
from toygpt.pipeline.files import temporary_directory
from toygpt.training.launcher import launcher_problem

# File systems that several machines may share.
SHARED = re.compile(
    r"nfs|lustre|gpfs|beegfs|ceph|cifs|smb|fuse|gluster|9p|virtiofs|afs|pan|weka|orange"
)
# Fails if another process has locked the file.
TRY_TO_LOCK = """
import fcntl, sys
with open(sys.argv[1], "r+") as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""


def check_cluster(root: Path) -> Iterator[Line]:
    """Describe the cluster around this machine, if there is one, and its locks."""
    params = valid_params(root)
    if params and (problem := launcher_problem(params.runtime, os.environ)):
        yield Finding(problem, f"${{EDITOR:-vi}} {paths.PARAMS}")
    yield from describe_job(os.environ)
    yield from _locks(root)


def describe_job(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield what the variables of Slurm and of torchrun say; on a laptop, nothing."""
    if "SLURM_JOB_ID" in environment:
        nodes = int(environment.get("SLURM_JOB_NUM_NODES", "1"))
        tasks = int(environment.get("SLURM_NTASKS", "1"))
        yield (
            f"in job {environment['SLURM_JOB_ID']} of Slurm: "
            f"{number_of(nodes, 'machine')} "
            f"({environment.get('SLURM_JOB_NODELIST', 'unknown')}), "
            f"{number_of(tasks, 'task')}"
        )
    elif shutil.which("srun") is not None:
        yield "Slurm is installed; this is outside of a job"
    for rank, ranks in (
        ("RANK", "WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ):
        if rank in environment and ranks in environment:
            yield (
                f"rank {environment[rank]} (counted from 0) of {environment[ranks]}, "
                f"by {rank}"
            )


def _locks(root: Path) -> Iterator[Line]:
    folder = root / ".toygpt"
    kind = file_system_of(folder)
    if not locks_hold(folder if folder.is_dir() else root):
        yield Finding(
            f"the file system of .toygpt ({kind}) has no locks: two trainings could "
            f"overwrite each other's checkpoints; move the project to another one, or "
            f"mount this one with locks (flock)",
            "df .",
        )
    elif SHARED.search(kind):
        yield (
            f".toygpt is on {kind}: locks hold between processes of this machine; "
            f"whether they do between machines, a training of several says at its start"
        )
    else:
        yield f".toygpt is on {kind}: locks hold"


def file_system_of(path: Path) -> str:
    """Return the type of the file system that a path lies on: ext4, nfs4 …"""
    mounts = [
        mount
        for mount in psutil.disk_partitions(all=True)
        if path.resolve().is_relative_to(mount.mountpoint)
    ]
    return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else ""


def is_shared(root: Path) -> bool:
    """Return whether other machines may see the folder, and work in it."""
    return SHARED.search(file_system_of(root)) is not None


def locks_hold(folder: Path) -> bool:
    """Return whether a second process is refused a lock that this one holds."""
    with temporary_directory(folder) as temporary:
        path = temporary / "lock"
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            command = [sys.executable, "-c", TRY_TO_LOCK, str(path)]
            done = subprocess.run(command, capture_output=True, text=True)
    return "BlockingIOError" in done.stderr
