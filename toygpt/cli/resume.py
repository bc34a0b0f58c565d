"""`python . resume`: continue a training that was interrupted."""

import argparse
import os
import re
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from toygpt.cli.dvc import project_root, run_dvc, run_experiment
from toygpt.cli.options import add_config, add_precision_and_wandb, overrides_of
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError

# How a run ends by a signal of Slurm (resuming/signals.py).
PREEMPTED = re.compile("stopped by (SIGTERM|SIGUSR1) ")


def add_parser(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "resume",
        allow_abbrev=False,
        help="continue a training that was interrupted",
        description=(
            "Continue a training that was interrupted, with the parameters it had. The "
            "command that began it, given again, does the same. Of the parameters that "
            "the weights depend on, only the precision may change."
        ),
    )
    parser.add_argument(
        "training",
        nargs="?",
        metavar="TRAINING",
        help="its name, or the beginning of its id, if there are several",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help=(
            "resume nothing; exit with 0 if a training of this Slurm job can be "
            "resumed and was stopped by SIGTERM or SIGUSR1, else with 1"
        ),
    )
    add_config(parser)
    add_precision_and_wandb(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run DVC with the parameters that the interrupted training had."""
    from toygpt.resuming.choose import check_changes, choose, interrupted_trainings

    root = project_root()
    if options.check:
        return check(root, os.environ.get("SLURM_JOB_ID"))
    chosen = choose(interrupted_trainings(root), options.training)
    # Only now, since it takes a while to import.
    from toygpt.pipeline.params import flatten
    from toygpt.pipeline.params_file import read_yaml

    description, changes = chosen.description, overrides_of(options)
    check_changes(description, changes)
    wanted = dict(flatten(description.params)) | changes
    present = dict(flatten(read_yaml(root / paths.PARAMS)))
    overrides = {
        key: value
        for key, value in wanted.items()
        if key not in present or present[key] != value
    }
    settings = {"TOYGPT_RESUME": chosen.training.fingerprint}
    print(f"resuming {chosen}", flush=True)
    if description.experiment is None and not overrides:
        code = run_dvc(root, "repro", settings=settings)
    else:
        code = run_experiment(
            root,
            overrides,
            name=description.experiment,
            is_temporary=description.is_temporary,
            settings=settings,
        )
    if code == 0 and chosen.training.describe() is not None:
        print(
            f"DVC had the results of this training already: nothing was left to do. "
            f"{chosen.training.folder} is of no use any more.",
            file=sys.stderr,
        )
    return code


def check(root: Path, job: str | None) -> int:
    """Return 0 if a training was preempted or reached its time limit, else 1.

    An error, a diverged loss or Ctrl-C would come again, and a job that was cancelled
    shall not, though it ends by the same signals: for these it is 1.

    Args:
        root: The project's folder.
        job: The id of the Slurm job that the training ran in; None allows any.
    """
    from toygpt.resuming.run_folder import list_run_folders
    from toygpt.tracking.run_info import read_info, runs_folder

    state, started = ("RUNNING", 0.0) if job is None else state_and_start_of_this_job()
    if state != "RUNNING":
        print(f"job {job} of Slurm is {state or 'unknown'}", file=sys.stderr)
        return 1
    for training in list_run_folders(root):
        with suppress(InputError, FileNotFoundError):  # damaged: `doctor` reports it
            description = training.describe()
            if description is None or training.holder() is not None:
                continue
            info = read_info(runs_folder(root) / description.run)
            is_of_job = job is None or info.metadata.get("slurm.job") == job
            # If it was stopped before the job came back, the job has failed since then,
            # and would come back for ever.
            is_new = (info.ended or 0.0) >= started
            if is_of_job and is_new and PREEMPTED.match(info.reason or ""):
                print(f"{description.name}: {info.reason}")
                return 0
    print("no training was stopped by SIGTERM or SIGUSR1", file=sys.stderr)
    return 1


def state_and_start_of_this_job() -> tuple[str, float]:
    """Return the state of this Slurm job, and when it came out of the queue last.

    A job that is preempted, or near its end, is still RUNNING. The state is empty if
    Slurm does not know the job, or gives no time that can be read.
    """
    environment = os.environ | {"SLURM_TIME_FORMAT": "standard"}
    job = environment["SLURM_JOB_ID"]
    if "SLURM_ARRAY_TASK_ID" in environment:
        # The id of an array's last job stands for the whole array as well.
        array, task = (environment[f"SLURM_ARRAY_{of}_ID"] for of in ("JOB", "TASK"))
        job = f"{array}_{task}"
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%T %S"]
    try:
        output = subprocess.check_output(command, env=environment, text=True)
        (line,) = output.splitlines()
        state, start = line.split()
        return state, datetime.fromisoformat(start).timestamp()
    except (FileNotFoundError, subprocess.CalledProcessError, ValueError):
        return "", 0.0
