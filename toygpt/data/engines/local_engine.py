"""Workers on this machine: processes, each with one shard at a time."""

import os
import signal
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from threading import Thread

from toygpt.data.engines.tasks import Outcomes, Task, WorkerKilledError


def run(tasks: Sequence[Task], workers: int) -> Outcomes:
    """Run tasks in processes, so many at once; yield each as it ends, with its error.

    Each process has a pipe of its own: if one is killed, it is known which task it had,
    and no other one is lost (`concurrent.futures` loses all that are not done).
    """
    waiting = deque(tasks)
    running: dict[Connection, tuple[Task, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                pipe, process = _start()
                running[pipe] = _give(pipe, waiting.popleft()), process
            ready = wait(list(running))
            for pipe in [each for each in running if each in ready]:
                task, process = running[pipe]
                error = _answer(pipe, process)
                if waiting and not isinstance(error, WorkerKilledError):
                    running[pipe] = _give(pipe, waiting.popleft()), process
                else:
                    del running[pipe]
                    pipe.close()  # by which the process knows that it is done
                    process.join()
                yield task, error
    finally:
        for _, process in running.values():
            process.kill()
            process.join()


def _start() -> tuple[Connection, SpawnProcess]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # the worker's copy is the only one: it ends with it
    return ours, process


def _give(pipe: Connection, task: Task) -> Task:
    with suppress(BrokenPipeError):  # its end will be read from the pipe
        pipe.send(task)
    return task


def _answer(pipe: Connection, process: SpawnProcess) -> Exception | None:
    try:
        answer: Exception | None = pipe.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        code = process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return WorkerKilledError(how)
    return answer


def _work(pipe: Connection) -> None:
    # Ctrl-C reaches the whole group; the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError):
        while True:
            pipe.send(pipe.recv()())


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "a worker has one"
    parent.join()
    os._exit(1)
