"""The launcher that starts a process per device: `srun`, `torchrun`, or none of them.

Such a process is called a rank. With `runtime.launcher: none` the stage itself is rank
zero, and Lightning starts the other ranks on this machine. A cluster has a launcher,
which can start, signal and end processes on several machines. The stage then hands
itself over: the launcher takes its place (`exec`) and has its process id, so that DVC
can signal it, and gets its exit code. PyTorch is not needed here, and not imported.
"""

import os
import shutil
import sys
from collections.abc import Mapping

from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import RuntimeParams
from toygpt.pipeline.params_file import load_params
from toygpt.pipeline.process import (
    LAUNCHED,
    end_launcher_with_dvc,
    is_launched,
    num_processors,
)

# Where ranks on Slurm find each other; Linux gives none of these to other programs.
FIRST_PORT, NUM_PORTS = 20_000, 10_000

# How long torchrun waits, after a signal, for ranks to save a checkpoint.
SECONDS_TO_SAVE = 120

HOW_TO_START = "see docs/clusters.md, or set runtime.launcher to none"


def hand_over(module: str) -> None:
    """Replace this process by the launcher, which starts a module once per device.

    Without a launcher, and in the processes that it has started, nothing happens.

    Args:
        module: Name of the stage.

    Raises:
        InputError: The launcher cannot start as many processes as params.yaml asks for,
            or torchrun has started them again.
        SystemExit: The same on ranks above zero.
    """
    _refuse_restart(os.environ)
    if is_launched():
        return
    runtime = load_params(paths.PARAMS).runtime
    if runtime.launcher == "none":
        return
    if problem := launcher_problem(runtime, os.environ):
        raise InputError(problem)
    program, *arguments = launch_command(runtime, module, os.environ)
    if runtime.launcher == "srun" and "SLURM_JOB_ID" not in os.environ:
        print("outside of a job of Slurm: srun asks for an allocation", flush=True)
    end_launcher_with_dvc()
    os.execvpe(program, [program, *arguments], os.environ | launch_environment(runtime))


def _refuse_restart(environment: Mapping[str, str]) -> None:
    """Refuse ranks that torchrun has started again, because one of them had failed.

    Its store still has the addresses of the ranks before. Some of the new ones then try
    to reach those, and wait for each other until their time is over.
    """
    if environment.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return
    if environment.get("RANK") != "0":
        raise SystemExit(0)
    raise InputError(
        "a rank has failed, and torchrun has started all of them again, which then may "
        "not find each other: run it with --max-restarts=0; the same command resumes"
    )


def launcher_problem(
    runtime: RuntimeParams, environment: Mapping[str, str]
) -> str | None:
    """Return why the launcher cannot start the ranks here, if that is known before.

    Args:
        runtime: Which launcher, and how many devices and machines.
        environment: The variables by which a cluster describes itself.
    """
    nodes = runtime.num_nodes
    match runtime.launcher:
        case "srun":
            if shutil.which("srun") is None:
                return f"runtime.launcher is srun, but there is none; {HOW_TO_START}"
            number = environment.get("SLURM_JOB_NUM_NODES", str(nodes))
            if number.isdigit() and int(number) < nodes:
                return (
                    f"runtime.num_nodes is {nodes}, but this job of Slurm has "
                    f"{number}: submit it with --nodes={nodes}"
                )
        case "torchrun":
            number = environment.get("PET_NNODES", str(nodes))
            if number != str(nodes):
                return (
                    f"runtime.num_nodes is {nodes}, but PET_NNODES is {number}: both "
                    f"are the number of machines"
                )
            if nodes > 1 and (missing := _missing_of_torchrun(environment)):
                return (
                    f"torchrun on {nodes} machines needs the variables "
                    f"{' and '.join(missing)} on each of them; {HOW_TO_START}"
                )
    return None


def _missing_of_torchrun(environment: Mapping[str, str]) -> list[str]:
    """Return the variables without which torchrun's agents do not find each other."""
    missing = []
    if not {"PET_MASTER_ADDR", "PET_RDZV_ENDPOINT"} & environment.keys():
        missing.append("PET_MASTER_ADDR")
    is_numbered = environment.get("PET_RDZV_BACKEND", "static") == "static"
    if is_numbered and "PET_NODE_RANK" not in environment:
        missing.append("PET_NODE_RANK")
    return missing


def launch_command(
    runtime: RuntimeParams, module: str, environment: Mapping[str, str]
) -> list[str]:
    """Return the command that starts a module once per device, on all machines."""
    num_nodes, devices = runtime.num_nodes, runtime.devices
    if runtime.launcher == "srun":
        # A step inside another one would wait until that has ended.
        inside = ["--overlap"] if "SLURM_STEP_ID" in environment else []
        return [
            "srun",
            *inside,
            f"--nodes={num_nodes}",
            f"--ntasks={num_nodes * int(devices)}",  # not as many as the job has
            f"--ntasks-per-node={devices}",
            "--kill-on-bad-exit=1",  # a rank that has failed ends the others
            "--wait=0",  # one that has ended waits for them, however long
            *[sys.executable, "-m", module],
        ]
    return [
        *[sys.executable, "-m", "torch.distributed.run"],
        # On one machine it finds a free port, so that two trainings do not meet.
        *(["--standalone"] if num_nodes == 1 else [f"--nnodes={num_nodes}"]),
        f"--nproc-per-node={devices}",
        "--max-restarts=0",  # the same command resumes, and an error stays one
        "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
        *["-m", module],
    ]


def launch_environment(runtime: RuntimeParams) -> dict[str, str]:
    """Return the variables that the ranks get, beside those of this process."""
    variables: dict[str, str] = {LAUNCHED: runtime.launcher}
    if runtime.launcher == "srun":
        # Lightning takes a job called bash or interactive, as `salloc` does, for none.
        variables["SLURM_JOB_NAME"] = "train"
        # Lightning's would be the same for two trainings in one job.
        if "MASTER_PORT" not in os.environ:
            variables["MASTER_PORT"] = str(FIRST_PORT + os.getpid() % NUM_PORTS)
        return variables
    # Else it kills ranks that save a checkpoint after half a minute.
    if "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" not in os.environ:
        variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SECONDS_TO_SAVE)
    if "OMP_NUM_THREADS" not in os.environ:
        # Else torchrun, with a banner, lets each rank use a single core.
        share = num_processors() // int(runtime.devices)
        variables["OMP_NUM_THREADS"] = str(max(1, share))
    return variables
