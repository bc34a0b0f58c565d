"""Workers of a Ray cluster: a task for each shard.

RAY_ADDRESS names the cluster. Without it, it is the one of this machine, which is
started where there is none.
"""

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence

# Read when Ray is imported. It would report the use of Ray over the network, and start
# its workers by `uv run` if this process was, in copies of the project.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import ray

from toygpt.data.tasks import Task, WorkerKilledError
from toygpt.pipeline.errors import InputError, first_line


def run(
    tasks: Sequence[Task], workers: int | None
) -> Iterator[tuple[Task, Exception | None]]:
    """Run tasks on Ray; yield each as it ends, with its error.

    Tasks, and not Ray Data: each writes its own files and returns next to nothing, so
    that nothing goes through Ray's memory of objects.

    Args:
        tasks: The tasks; their folder is on a file system that all nodes share.
        workers: How many run at once, at most; None means one for each processor.

    Raises:
        InputError: The cluster cannot be reached, or has other versions.
    """
    _connect()
    # What was killed is tried again as with any other engine, and not by Ray as well.
    remote = ray.remote(num_cpus=1, max_retries=0)(Task.__call__)
    waiting = deque(tasks)
    running: dict[ray.ObjectRef, Task] = {}
    try:
        while waiting or running:
            while waiting and len(running) < (workers or len(tasks)):
                task = waiting.popleft()
                running[remote.remote(task)] = task
            (reference,), _ = ray.wait(list(running))
            task = running.pop(reference)
            try:
                error = ray.get(reference)
            except ray.exceptions.RayError as lost:
                error = WorkerKilledError(first_line(lost))
            yield task, error
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _connect() -> None:
    if ray.is_initialized():
        return
    try:
        # Workers find the project by the working directory, which Ray gives them.
        ray.init(logging_level=logging.ERROR)
    except (RuntimeError, ConnectionError, ValueError) as error:
        raise InputError(
            f"runtime.data_engine in params.yaml is ray, but Ray's cluster cannot be "
            f"used: {first_line(error)}"
        ) from None
