"""What the doctor says of a cluster, and of locks."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tests.doctor.conftest import Visit
from tests.project import Workspace
from toygpt.doctor import cluster
from toygpt.doctor.cluster import check_cluster, describe_job, locks_hold
from toygpt.doctor.finding import Finding

STALE = '{"write": {"data": {"pid": 4194305, "cmd": "dvc repro"}}, "read": {}}'


@pytest.fixture
def on_nfs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Show the folder of the test as the mount of a file server."""
    mounts = [("/", "ext4"), (str(tmp_path), "nfs4")]
    found = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: found)


def test_a_machine_without_a_cluster_has_one_line(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # there may be an srun

    (line,) = check_cluster(project.root)

    assert str(line).startswith(".toygpt is on ")
    assert str(line).endswith(": locks hold")


def test_a_job_and_its_ranks_are_described() -> None:
    environment = {
        "SLURM_JOB_ID": "12",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "n[0-1]",
        "SLURM_NTASKS": "8",
        "SLURM_PROCID": "3",
        "SLURM_STEP_NUM_TASKS": "8",
    }

    assert list(describe_job(environment)) == [
        "in job 12 of Slurm: 2 machines (n[0-1]), 8 tasks",
        "rank 3 (counted from 0) of 8, by SLURM_PROCID",
    ]


def test_a_launcher_that_cannot_start_is_a_finding(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.set_params({"runtime.launcher": "srun", "runtime.devices": 1})
    monkeypatch.setenv("PATH", "")

    finding, _ = check_cluster(project.root)

    assert isinstance(finding, Finding)
    assert finding.problem.startswith("runtime.launcher is srun, but there is none")


def test_a_file_system_whose_locks_do_not_hold_is_a_finding(
    project: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert locks_hold(tmp_path)
    # As where a lock is granted to everyone: the second process is not refused.
    monkeypatch.setattr(cluster, "TRY_TO_LOCK", "")

    *_, finding = check_cluster(project.root)

    assert not locks_hold(tmp_path)
    assert list(tmp_path.glob(".*.tmp")) == []
    assert isinstance(finding, Finding)
    assert "has no locks: two trainings could overwrite" in finding.problem


@pytest.mark.usefixtures("on_nfs")
def test_where_machines_share_files_no_process_is_taken_for_gone(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    """DVC's locks have a process id without its host, and ours may not hold there."""
    lock = project.root / ".dvc/tmp/rwlock"
    lock.write_text(STALE)
    unfinished = project.root / "data/.splits.0a.tmp"
    unfinished.touch()

    result = visit(fix=True)

    elsewhere = "unless DVC works here on another machine"
    assert result.command(elsewhere) == "rm .dvc/tmp/rwlock"
    assert lock.exists()
    assert unfinished.exists()
    assert "on nfs4: locks hold between processes of this machine; whether" in (
        result.text
    )
