"""Workers that Slurm starts: an array job with an element for each shard.

Partition, account, memory and time come from sbatch's own variables: SBATCH_PARTITION,
SBATCH_ACCOUNT, SBATCH_TIMELIMIT … (`man sbatch`).
"""

import os
import shutil
from collections.abc import Sequence

import submitit
from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

from toygpt.data.tasks import Outcomes, Task, WorkerKilledError
from toygpt.pipeline.errors import InputError, first_line

# Of one shard; SBATCH_TIMELIMIT comes before it.
LIMIT_MINUTES = 60
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

    Args:
        tasks: The tasks; their folder is on a file system that all nodes share.
        workers: How many run at once, at most; None means as many as Slurm starts.
        cluster: A kind of submitit's: slurm, or local, for tests.

    Raises:
        InputError: There is no Slurm here, or it refuses the jobs.
    """
    SlurmJob.watcher = Queue(delay_s=ASK_SLURM_SECONDS)
    folder = tasks[0].function.parent / "jobs"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster)
        executor.update_parameters(
            name="toygpt",
            timeout_min=LIMIT_MINUTES,
            slurm_array_parallelism=workers or len(tasks),
        )
        jobs = _submit(executor, tasks)
    except (RuntimeError, OSError, submitit.core.utils.FailedJobError) as error:
        raise InputError(
            f"runtime.data_engine in params.yaml is slurm, but Slurm takes no jobs "
            f"from here: {first_line(error)}"
        ) from None
    left = dict(zip(jobs, tasks, strict=True))
    try:
        for job in submitit.helpers.as_completed(jobs, poll_frequency=POLL_SECONDS):
            yield left.pop(job), _answer(job)
    finally:
        for job in left:
            job.cancel(check=False)


def _answer(job: submitit.Job[Exception | None]) -> Exception | None:
    try:
        return job.result()
    except Exception:  # the task returns its errors; this is not one of them
        return WorkerKilledError(f"job {job.job_id}, log {job.paths.stderr}")


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
