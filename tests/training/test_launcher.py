"""The stage becomes its launcher, which starts it once per device."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.kills import newest_step, started, wait_until
from tests.project import PROJECT, Workspace
from tests.resuming.test_pipeline_resume import longer_project
from tests.tiny import runtime_params
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.process import LAUNCHED
from toygpt.resuming.run_folder import list_run_folders
from toygpt.tracking.run_info import all_infos
from toygpt.training.launcher import hand_over, launch_command, launcher_problem

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
STAGE = ["-m", "stages.train"]
OF_ALL = [
    "--max-restarts=0",
    "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
]
MASTER = {"PET_MASTER_ADDR": "node0", "PET_NODE_RANK": "1"}


def of(launcher: str, **changes: Any) -> Any:
    return runtime_params(launcher=launcher, **changes)


@pytest.mark.parametrize(
    ("runtime", "environment", "command"),
    [
        (
            of("srun", devices=4, num_nodes=2),
            {},
            [
                *["srun", "--nodes=2", "--ntasks=8", "--ntasks-per-node=4"],
                *["--kill-on-bad-exit=1", "--wait=0", sys.executable],
            ],
        ),
        (
            of("srun"),
            {"SLURM_STEP_ID": "0"},
            [
                *["srun", "--overlap", "--nodes=1", "--ntasks=1"],
                *["--ntasks-per-node=1", "--kill-on-bad-exit=1", "--wait=0"],
                sys.executable,
            ],
        ),
        (
            of("torchrun", devices=2),
            {},
            [*TORCHRUN, "--standalone", "--nproc-per-node=2", *OF_ALL],
        ),
        (
            of("torchrun", devices=8, num_nodes=3),
            {},
            [*TORCHRUN, "--nnodes=3", "--nproc-per-node=8", *OF_ALL],
        ),
    ],
)
def test_the_launcher_starts_a_process_per_device_on_each_machine(
    runtime: Any, environment: dict[str, str], command: list[str]
) -> None:
    found = launch_command(runtime, "stages.train", environment)

    assert found == [*command, *STAGE]


@pytest.mark.parametrize(
    ("runtime", "environment", "problem"),
    [
        (of("none", num_nodes=2), {}, None),
        (of("srun", num_nodes=2), {"SLURM_JOB_NUM_NODES": "2"}, None),
        (of("srun", num_nodes=2), {"SLURM_JOB_NUM_NODES": "3"}, None),
        (
            of("srun", num_nodes=2),
            {"SLURM_JOB_NUM_NODES": "1"},
            "runtime.num_nodes is 2, but this job of Slurm has 1",
        ),
        (of("torchrun"), {}, None),
        (of("torchrun", num_nodes=2), MASTER, None),
        (
            of("torchrun", num_nodes=2),
            {"PET_RDZV_ENDPOINT": "node0:29400", "PET_RDZV_BACKEND": "c10d"},
            None,
        ),
        (
            of("torchrun", num_nodes=2),
            {},
            "needs the variables PET_MASTER_ADDR and PET_NODE_RANK on each",
        ),
        (
            of("torchrun", num_nodes=2),
            {"PET_RDZV_ENDPOINT": "node0:29400"},
            "needs the variables PET_NODE_RANK on each",
        ),
        (
            of("torchrun", num_nodes=2),
            {**MASTER, "PET_NNODES": "4"},
            "runtime.num_nodes is 2, but PET_NNODES is 4",
        ),
    ],
)
def test_what_the_launcher_would_wait_for_in_vain_is_known_before(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime: Any,
    environment: dict[str, str],
    problem: str | None,
) -> None:
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    found = launcher_problem(runtime, environment)

    assert (found is None) if problem is None else (problem in str(found))


SRUN = """#!/bin/sh
echo $$ $TOYGPT_LAUNCHED $SLURM_JOB_NAME "$@"
exit 7
"""


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_stage_becomes_the_launcher_before_it_loads_pytorch(
    tmp_path: Path, is_installed: bool
) -> None:
    """The same process: DVC signals it, and gets its exit code."""
    workspace = Workspace(tmp_path)
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    changes = {"runtime.launcher": "srun", "runtime.devices": 2}
    workspace.set_params(changes)
    (tmp_path / "bin").mkdir()
    if is_installed:
        (tmp_path / "bin/srun").write_text(SRUN)
        (tmp_path / "bin/srun").chmod(0o755)
    # Without PyTorch: to import it would be an error.
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    search = os.pathsep.join([str(tmp_path), str(PROJECT)])
    with subprocess.Popen(
        [sys.executable, "-m", "stages.train"],
        cwd=tmp_path,
        env=workspace.environment
        | {"PATH": f"{tmp_path}/bin", "PYTHONPATH": search, "SLURM_JOB_ID": "5"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as stage:
        output, errors = stage.communicate()

    if is_installed:
        options = (
            "--nodes=1 --ntasks=2 --ntasks-per-node=2 --kill-on-bad-exit=1 --wait=0"
        )
        command = f"{options} {sys.executable} -m stages.train"
        assert output == f"{stage.pid} srun train {command}\n"
        assert stage.returncode == 7
    else:
        assert errors == (
            "error: runtime.launcher is srun, but there is none; see docs/clusters.md, "
            "or set runtime.launcher to none\n"
        )
        assert stage.returncode == 1


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_all_and_the_training_resumes(
    built: Workspace, tmp_path: Path
) -> None:
    """As the same run, on another number of devices.

    A torchrun that would start the ranks again is refused.
    """
    workspace = longer_project(built, tmp_path / "project")
    root = workspace.root
    workspace.set_params({"runtime.devices": 2})
    torchrun = [*TORCHRUN, "--standalone", "--nproc-per-node=2", "--max-restarts=1"]

    with started(workspace, *torchrun, *STAGE) as command:
        wait_until(lambda: newest_step(root) >= 5 or not command.is_running)
        ranks = psutil.Process(command.process.pid).children()
        (killed,) = [rank for rank in ranks if rank.environ().get("RANK") == "1"]
        killed.kill()
        assert command.wait() == 1

    assert f"exitcode: {-signal.SIGKILL}" in command.output
    errors = [line for line in command.output.splitlines() if line[:6] == "error:"]
    assert [line[:27] for line in errors] == [
        "error: another rank has end",
        "error: a rank has failed, a",
    ]
    assert "[rank0]: Traceback" not in command.output
    (left,) = list_run_folders(root)
    best = left.best_checkpoint()
    assert best is not None and best.step >= 5
    workspace.set_params({"runtime.devices": 1, "runtime.micro_batch_size": 2})
    resuming = f"resuming after step {best.step:,}\n"
    with started(workspace, "python", *STAGE) as alone:
        wait_until(lambda: resuming in alone.output or not alone.is_running)
        assert resuming in alone.output
    assert len(list(all_infos(root))) == 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [(LAUNCHED, "srun"), ("TORCHELASTIC_RUN_ID", "a"), ("SLURM_STEP_NUM_TASKS", "2")],
)
def test_a_rank_does_not_become_a_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.chdir(tmp_path)  # there are no parameters, so that to read them fails
    with pytest.raises(InputError):
        hand_over("stages.train")
    monkeypatch.setenv(variable, value)

    hand_over("stages.train")
