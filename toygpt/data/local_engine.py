"""Workers on this machine: a new process for each shard."""

import os
import signal
from collections import deque
from collections.abc import Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from threading import Thread

from toygpt.data.tasks import Outcomes, Task, WorkerKilledError


def run(tasks: Sequence[Task], workers: int) -> Outcomes:
    """Run tasks in processes, so many at once; yield each as it ends, with its error.

    A process for each task: if one is killed, it is known which task it had, and no
    other one is lost (`concurrent.futures` loses all that are not done).
    """
    context = get_context("spawn")
    waiting = deque(tasks)
    running: dict[Connection, tuple[Task, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                task = waiting.popleft()
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_work, args=(task, sender), name=task.name, daemon=True
                )
                process.start()
                sender.close()  # the worker's copy is the only one: it ends with it
                running[receiver] = task, process
            ready = wait(list(running))
            for receiver in [each for each in running if each in ready]:
                task, process = running.pop(receiver)
                yield task, _answer(receiver, process)
    finally:
        for _, process in running.values():
            process.kill()
            process.join()


def _answer(receiver: Connection, process: SpawnProcess) -> Exception | None:
    with receiver:
        try:
            answer: Exception | None = receiver.recv()
        except EOFError:
            process.join()
            code = process.exitcode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return WorkerKilledError(how)
    process.join()
    return answer


def _work(task: Task, sender: Connection) -> None:
    # Ctrl-C reaches the whole group; the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    sender.send(task())


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "a worker has one"
    parent.join()
    os._exit(1)
