"""The Slurm of these tests: two nodes, and nothing that outlives who started it."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.cluster.slurm import NODES, Slurm
from tests.faults.kills import wait_until
from tests.project import PROJECT

pytestmark = pytest.mark.cluster

# Starts a cluster and a job on it, says where, and waits to be killed.
STARTED = """
import subprocess, sys, time
from tests.cluster.slurm import running_slurm
with running_slurm() as slurm:
    slurm.ask("sbatch", "--output=/dev/null", "--wrap", "srun sleep 1000")
    print(slurm.folder, flush=True)
    time.sleep(1000)
"""


def processes_of(folder: str) -> list[psutil.Process]:
    """Return the processes that name the folder of a cluster."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if folder in " ".join(process.info["cmdline"] or [])
        or folder in (process.info["environ"] or {}).get("SLURM_CONF", "")
    ]


def test_each_node_runs_its_task(slurm: Slurm) -> None:
    srun = ["srun", "--nodes=2", "--ntasks-per-node=1"]

    names = slurm.ask(*srun, "printenv", "SLURMD_NODENAME")

    assert sorted(names.split()) == NODES


def test_nothing_outlives_tests_that_are_killed(slurm: Slurm) -> None:
    """Neither daemons nor jobs nor files."""
    command = [sys.executable, "-c", STARTED]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout is not None
        folder = tests.stdout.readline().strip()
        names = {"munged", "slurmctld", "slurmd", "srun", "sleep"}
        wait_until(
            lambda: names <= {process.name() for process in processes_of(folder)}
        )
        tests.kill()

    wait_until(lambda: not processes_of(folder))
    wait_until(lambda: not Path(folder).exists())
