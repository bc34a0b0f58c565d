"""Workers that Slurm starts: array jobs with an element for each shard.

Partition, account, memory and time come from sbatch's own variables: SBATCH_PARTITION,
SBATCH_ACCOUNT, SBATCH_TIMELIMIT … (`man sbatch`).
"""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import submitit
from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

from toygpt.data.engines.slurm_arrays import cancel_arrays, note_arrays
from toygpt.data.engines.tasks import Outcomes, Task, WorkerKilledError
from toygpt.pipeline.errors import InputError, first_line

# Of one shard; SBATCH_TIMELIMIT comes before it.
LIMIT_MINUTES = 60
# Of an array; Slurm allows 1,001 by default (MaxArraySize), which begin at 0.
ELEMENTS = 1_000
POLL_SECONDS = 1
ASK_SLURM_SECONDS = 30


class Queue(SlurmInfoWatcher):  # type: ignore[misc]
    """Asks `squeue` which jobs are left: submitit asks the accounting, if there is one.

    Without accounting, a job that was killed would be waited for forever.
    """

    def _make_command(self) -> list[str]:
        return ["squeue", "--me", "--array", "--noheader", "--format=%i"]

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        """Return the state of each job that submitit has asked about."""
        listed = string.decode() if isinstance(string, bytes) else string
        left = set(listed.split())
        return {
            job: {"State": "RUNNING" if job in left else "COMPLETED"}
            for job in self._registered
        }


def run(
    tasks: Sequence[Task], workers: int | None, *, cluster: str = "slurm"
) -> Outcomes:
    """Run tasks as jobs; yield each as it ends, with its error.

    One array after another: Slurm limits how long they are.

    Args:
        tasks: The tasks; their folder is on a file system that all nodes share.
        workers: How many run at once, at most; None means as many as Slurm starts.
        cluster: A kind of submitit's: slurm; or local, for tests, which stop its jobs.

    Raises:
        InputError: There is no Slurm here, or it refuses the jobs.
    """
    SlurmJob.watcher = Queue(delay_s=ASK_SLURM_SECONDS)
    for first in range(0, len(tasks), ELEMENTS):
        array = tasks[first : first + ELEMENTS]
        yield from _run_array(array, workers, cluster)


def _run_array(tasks: Sequence[Task], workers: int | None, cluster: str) -> Outcomes:
    stage_folder: Path = tasks[0].folder.parents[1]
    job_folder = tasks[0].folder / "jobs"
    shutil.rmtree(job_folder, ignore_errors=True)
    try:
        executor = submitit.AutoExecutor(job_folder, cluster=cluster)
        executor.update_parameters(
            name="toygpt",
            timeout_min=LIMIT_MINUTES,
            slurm_array_parallelism=workers or len(tasks),
        )
        jobs = _submit(executor, tasks)
    except (RuntimeError, OSError, submitit.core.utils.FailedJobError) as error:
        raise InputError(
            f"runtime.data_engine in params.yaml is slurm, but Slurm takes no jobs "
            f"from here: {_reason(error)}"
        ) from None
    if cluster == "slurm":
        note_arrays(stage_folder, {job.job_id.split("_")[0] for job in jobs})
    task_of = dict(zip(jobs, tasks, strict=True))
    try:
        for job in submitit.helpers.as_completed(jobs, poll_frequency=POLL_SECONDS):
            yield task_of[job], _answer(job, task_of[job])
    finally:
        cancel_arrays(stage_folder)


def _answer(job: submitit.Job[Exception | None], task: Task) -> Exception | None:
    """Return the error of a job: what the task returned, or why it did not return."""
    log = f"job {job.job_id}, log {job.paths.stderr}"
    try:
        return job.result()
    except submitit.core.utils.FailedJobError as error:
        if "preempted" in str(error):
            return WorkerKilledError(f"preempted: {log}")
        if "timed-out" in str(error):
            return InputError(
                f"{task.name} took longer than its job may ({log}): set the variable "
                f"SBATCH_TIMELIMIT to more minutes; a rerun does only the shards that "
                f"are missing"
            )
        # The trace stands between two lines of dashes.
        trace = re.split("^-+$", str(error), flags=re.MULTILINE)[1]
        return InputError(
            f"{task.name} failed: {trace.strip().splitlines()[-1]} ({log})"
        )
    except Exception:  # the task returns its errors; this is not one of them
        return WorkerKilledError(log)


def _reason(error: Exception) -> str:
    """Return in one line why Slurm takes no jobs."""
    lines = [first_line(error)]
    if "array" in str(error).lower():
        lines.append(f"an array has up to {ELEMENTS:,} jobs: `scontrol show config`")
    return "; ".join(lines)


def _submit(
    executor: submitit.AutoExecutor, tasks: Sequence[Task]
) -> list[submitit.Job[Exception | None]]:
    """Submit the tasks as one array.

    Inside of an allocation, the variables of its job would limit the new one; the
    user's own for sbatch, and where Slurm's configuration is, are meant for it.
    """
    meant = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("SBATCH_", "SLURM_CONF"))
    }
    with submitit.helpers.clean_env():
        os.environ.update(meant)
        return list(executor.submit_array(list(tasks)))
