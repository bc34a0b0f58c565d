"""Workers of a Ray cluster: a task for each shard.

RAY_ADDRESS names the cluster. Without it, it is the one of this machine, which is
started where there is none.
"""

import logging
import os
import socket
from collections import deque
from collections.abc import Sequence

# Read when Ray is imported. It would report the use of Ray over the network, and start
# its workers by `uv run` if this process was, in copies of the project.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import ray

from toygpt.data.engines.tasks import Outcomes, Task, WorkerKilledError
from toygpt.pipeline.errors import InputError, first_line

CONNECT_SECONDS = 20


def run(tasks: Sequence[Task], workers: int | None) -> Outcomes:
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
            yield task, _answer(reference, task)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _answer(reference: ray.ObjectRef, task: Task) -> Exception | None:
    try:
        answer: Exception | None = ray.get(reference)
    # An exception in the worker, as of an import: another worker raises it as well.
    except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
        return InputError(f"{task.name} failed: {str(error).strip().splitlines()[-1]}")
    except ray.exceptions.RayError as error:
        return WorkerKilledError(first_line(error))
    return answer


def _connect() -> None:
    if ray.is_initialized():
        return
    try:
        _check_address(os.environ.get("RAY_ADDRESS", ""))
        # Workers find the project by the working directory, which Ray gives them.
        ray.init(logging_level=logging.ERROR)
    except (RuntimeError, OSError, ValueError) as error:
        in_one_line = " ".join(str(error).split())
        raise InputError(
            f"runtime.data_engine in params.yaml is ray, but Ray's cluster cannot be "
            f"used: {in_one_line}"
        ) from None


def _check_address(address: str) -> None:
    """Raise an error if nothing listens at an address; Ray tries for 14 minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            raise OSError(
                f"RAY_ADDRESS is {address!r}: {error.strerror or error}"
            ) from None
