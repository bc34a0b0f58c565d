"""The pipeline on two nodes of a Slurm ends with the bytes of one machine.

Also if its job is preempted, or a rank or the daemon of a node is killed.
"""

import sys
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import TWO_NODES, new_project
from tests.cluster.slurm import Slurm
from tests.faults.kills import newest_step, stage_processes, started, wait_until
from tests.project import Workspace
from toygpt.pipeline.files import sha256_of
from toygpt.resuming.run_folder import list_run_folders
from toygpt.tracking.run_info import all_infos

pytestmark = pytest.mark.cluster

# In place of what this cluster lacks; and where the tests look for the output.
OPTIONS = ["--ntasks-per-node=1", "--cpus-per-task=1", "--gres=none"]
OPTIONS += ["--output=slurm.out", "--parsable"]


def results_of(root: Path) -> dict[str, str]:
    """Return the digests of what the pipeline makes of the text.

    Without the curves: the number of ranks decides the last digits of a mean loss.
    """
    files = [path for path in (root / "data").rglob("*") if path.is_file()]
    files += [root / "models/toygpt/model.safetensors", root / "metrics/evaluate.json"]
    files += (root / "reports/samples").iterdir()
    return {path.relative_to(root).as_posix(): sha256_of(path) for path in files}


def submit(workspace: Workspace) -> int:
    """Submit the batch file of the documentation; return the number of the job."""
    (workspace.root / ".venv").symlink_to(Path(sys.executable).parents[1])
    batch_file = "docs/clusters/train.sbatch"
    return int(workspace.run("sbatch", *OPTIONS, batch_file).stdout)


def wait_for_end(slurm: Slurm, job: int, workspace: Workspace) -> None:
    """Wait until a job has ended well."""
    ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"}
    state = wait_until(lambda: "".join({slurm.job(job, "JobState")} & ends))
    output = (workspace.root / "slurm.out").read_text(encoding="utf-8")
    assert state == "COMPLETED", output


def ranks_of(workspace: Workspace) -> list[psutil.Process]:
    """Return the processes that train, those of rank zero first."""
    processes = stage_processes(workspace.root, "train")
    return sorted(processes, key=lambda each: each.environ().get("SLURM_PROCID", ""))


def weights_of(workspace: Workspace) -> str:
    return sha256_of(workspace.root / "models/toygpt/model.safetensors")


def reason_of_resuming(workspace: Workspace) -> str:
    """Return why the project's only training was interrupted."""
    (info,) = [info for _, info in all_infos(workspace.root)]
    return info.metadata["resumed.after"]


def test_a_job_runs_the_pipeline_and_its_training_is_a_step_on_two_nodes(
    alone: Workspace, slurm: Slurm, tmp_path: Path
) -> None:
    """From the corpus to the samples: the allocation is outside, DVC inside."""
    workspace = new_project(tmp_path / "project", TWO_NODES)
    workspace.environment |= slurm.environment

    job = submit(workspace)
    ranks = wait_until(lambda: two_of(ranks_of(workspace)))
    nodes = [rank.environ()["SLURMD_NODENAME"] for rank in ranks]
    wait_for_end(slurm, job, workspace)

    assert nodes == ["n0", "n1"]
    assert results_of(workspace.root) == results_of(alone.root)


def test_a_training_outside_of_a_job_asks_for_its_nodes(
    alone: Workspace, on_two_nodes: Workspace
) -> None:
    """DVC is where a process may stay; `srun` waits for the nodes."""
    on_two_nodes.environment["SLURM_PARTITION"] = "high"

    said = on_two_nodes.dvc("repro", "train").stdout

    assert "srun asks for an allocation" in said
    assert weights_of(on_two_nodes) == weights_of(alone)


def test_a_preempted_job_comes_back_and_resumes(
    alone: Workspace, slurm: Slurm, on_two_nodes: Workspace
) -> None:
    job = submit(on_two_nodes)
    wait_until(lambda: newest_step(on_two_nodes.root))

    preempting = ["--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null"]
    slurm.ask("sbatch", *preempting, "--wrap", "sleep 1")
    wait_for_end(slurm, job, on_two_nodes)

    assert slurm.job(job, "Restarts") == "1"
    assert reason_of_resuming(on_two_nodes).startswith("stopped by SIGTERM")
    assert weights_of(on_two_nodes) == weights_of(alone)


def test_the_job_of_a_node_that_falls_silent_starts_again_and_resumes(
    alone: Workspace, slurm: Slurm, on_two_nodes: Workspace
) -> None:
    """Its daemon is killed, and its rank hangs; some time later the node is back."""
    job = submit(on_two_nodes)
    wait_until(lambda: newest_step(on_two_nodes.root))

    slurm.node_daemon("n1").kill()
    ranks_of(on_two_nodes)[1].suspend()
    wait_until(lambda: slurm.states()[1].startswith("down"))
    slurm.start_node("n1")
    wait_for_end(slurm, job, on_two_nodes)

    assert slurm.job(job, "Restarts") == "1"
    assert "resuming after step" in (on_two_nodes.root / "slurm.out").read_text()
    assert weights_of(on_two_nodes) == weights_of(alone)


def test_a_rank_that_is_killed_ends_all_and_the_same_command_resumes(
    alone: Workspace, on_two_nodes: Workspace
) -> None:
    with started(on_two_nodes, "dvc", "repro", "train") as command:
        wait_until(lambda: newest_step(on_two_nodes.root))
        ranks = ranks_of(on_two_nodes)
        ranks[1].kill()
        _, alive = psutil.wait_procs(ranks, timeout=30)
        assert command.wait() != 0

    assert not alive
    step = newest_step(on_two_nodes.root)
    said = on_two_nodes.dvc("repro", "train").stdout

    assert step > 0 and f"resuming after step {step}" in said
    assert weights_of(on_two_nodes) == weights_of(alone)
    assert list_run_folders(on_two_nodes.root) == []


def test_a_second_job_of_a_training_is_refused_in_one_line(
    on_two_nodes: Workspace,
) -> None:
    with started(on_two_nodes, "dvc", "repro", "train"):
        wait_until(lambda: newest_step(on_two_nodes.root))
        second = on_two_nodes.run("python", "-m", "stages.train", check=False)

    assert second.returncode != 0
    lines = second.stderr.splitlines()
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert "is running already" in error
    assert "Traceback" not in second.stderr


def test_split_weights_on_two_nodes_are_those_of_one_machine(
    alone: Workspace, on_two_nodes: Workspace
) -> None:
    """Stopped by SIGTERM, and resumed from the part of each rank."""
    on_two_nodes.set_params({"runtime.strategy": "fsdp"})
    with started(on_two_nodes, "dvc", "repro", "train") as command:
        wait_until(lambda: newest_step(on_two_nodes.root))
        ranks_of(on_two_nodes)[1].terminate()
        assert command.wait() != 0

    said = on_two_nodes.dvc("repro", "train").stdout

    assert "resuming after step" in said
    assert weights_of(on_two_nodes) == weights_of(alone)


def two_of(processes: list[psutil.Process]) -> list[psutil.Process] | None:
    return processes if len(processes) == 2 else None
