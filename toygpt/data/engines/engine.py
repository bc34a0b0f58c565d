"""Map a function over the shards of a corpus: here, in processes, on Slurm, or on Ray.

    with Engine("tokenize", params.runtime) as engine:
        values = engine.map(function, work, directory, description="encode")

The bytes are equal for any engine, number of workers and order, because each shard's
are a function of that shard alone. A killed worker costs its shard, and a killed stage
the shards that were not done: results stay in the main workspace until the stage has
succeeded, and a rerun gives workers only what is missing or changed.
"""

import hashlib
import pickle
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from tqdm import tqdm

from toygpt.data.engines.slurm_arrays import cancel_arrays
from toygpt.data.engines.tasks import (
    Advance,
    Outcomes,
    ShardFunction,
    Task,
    WorkerKilledError,
    digest_of_code,
    function_files,
)
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import new_file, remove_directory, sweep_leftovers
from toygpt.pipeline.params import RuntimeParams
from toygpt.pipeline.process import num_processors

# How often a shard is given to a worker. Machines fail; but a shard that kills each
# worker has to be named.
ATTEMPTS = 3
# Bytes for which another process is started: it takes a second or two to import.
WORTH_A_WORKER = 50_000_000
TERMINATED = 128 + signal.SIGTERM

INSTALL = {
    "slurm": "uv sync --inexact --extra slurm",
    "ray": "uv sync --inexact --extra ray",
}

FEWER_WORKERS = "set runtime.data_workers in params.yaml to a smaller number"
IF_MEMORY_WAS_LACKING = {
    "local": FEWER_WORKERS,
    "slurm": "ask for more by the variable SBATCH_MEM_PER_NODE, such as 16G",
    "ray": FEWER_WORKERS,
}

# Runs tasks on so many workers, at most (None: as many as there are).
Run = Callable[[Sequence[Task], Any], Outcomes]


class Work(NamedTuple):
    """What is done for one shard."""

    name: str  # of the shard, for messages
    argument: Any  # of the function; by it, each file that is read is known again
    size: int  # of the shard, on the progress bar


class Engine:
    """Maps functions over shards for one stage, as `runtime` says."""

    def __init__(self, stage: str, runtime: RuntimeParams) -> None:
        self._name = runtime.data_engine
        workers = runtime.data_workers
        self._workers = None if workers == "auto" else workers
        self._folder = paths.main_root() / paths.SHARD_RESULTS / stage
        self._lock = ExitStack()  # of the folder, once it is needed
        self._is_locked = False

    def __enter__(self) -> Self:
        """Return the engine; it makes and keeps nothing yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove all results, unless the stage has failed."""
        with self._lock:
            if kind is None and self._folder.is_dir() and self._is_locked:
                remove_directory(self._folder)

    def map(
        self,
        function: ShardFunction,
        work: Sequence[Work],
        directory: Path | None = None,
        *,
        description: str,
    ) -> Iterator[Any]:
        """Call a function for each shard; return an iterator over the values, in order.

        All shards are done when this returns. The files and the value of each are
        brought as the iterator comes to it: few values need be in memory at once. The
        work on a single shard is done in this process, and its result is not kept.

        Args:
            function: A function of a module, or a `partial` of one: it is pickled.
            work: What is done for each shard.
            directory: The folder that gets the files which the function writes; None
                if it writes none.
            description: What the progress bar says.

        Raises:
            InputError: The function raised it, or the engine cannot be used, or a shard
                killed its worker several times.
        """
        total = sum(shard.size for shard in work)
        with tqdm(
            desc=description, total=total, unit="B", unit_scale=True, disable=None
        ) as progress:
            if len(work) <= 1:
                if self._folder.is_dir():  # of a failed attempt on several shards
                    self._keep_others_out()
                    self._remove_results(function, besides=None)
                folder = directory or self._folder  # the latter gets no file
                return iter(
                    [function(it.argument, folder, progress.update) for it in work]
                )
            tasks = self._tasks(function, work)
            missing = [task for task in tasks if not task.is_done()]
            size = sum(task.size for task in missing)
            progress.update(total - size)
            workers = self._workers
            if self._name == "local" and workers is None:
                workers = min(num_processors(), 1 + size // WORTH_A_WORKER)
            if self._name == "local" and workers == 1:
                for task in missing:
                    task.run(function, progress.update)
            else:
                run_with_retries(
                    run_of(self._name),
                    missing,
                    workers,
                    progress.update,
                    advice=IF_MEMORY_WAS_LACKING[self._name],
                )
        return (task.bring_result(directory) for task in tasks)

    @contextmanager
    def new_folder(self, name: str) -> Iterator[Path]:
        """Yield an empty folder that all workers see, and remove it afterwards.

        Its path is the same in each attempt, as the digest of a function's arguments
        needs it.
        """
        self._keep_others_out()
        folder = self._folder / name
        if folder.is_dir():  # of a killed stage
            remove_directory(folder)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _tasks(self, function: ShardFunction, work: Sequence[Work]) -> list[Task]:
        """Return the work as tasks; write the function where the workers read it."""
        self._keep_others_out()
        code = digest_of_code()
        arrays: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(function, protocol=5, buffer_callback=arrays.append)
        parts = [memoryview(pickled), *(array.raw() for array in arrays)]
        digest = hashlib.sha256(code.encode())
        for part in parts:
            digest.update(part)
        folder = self._results_of(function) / digest.hexdigest()[:32]
        self._remove_results(function, besides=folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in zip(function_files(len(parts)), parts, strict=True):
            with new_file(folder / name) as file:
                file.write(part)
        files = len(parts)
        return [Task(*shard, folder, files, Path.cwd(), code) for shard in work]

    def _results_of(self, function: ShardFunction) -> Path:
        """Return the folder of a function's results, with any arguments."""
        called = function.func if isinstance(function, partial) else function
        return self._folder / called.__name__

    def _remove_results(self, function: ShardFunction, *, besides: Path | None) -> None:
        """Remove what a function has left: other arguments, other code."""
        for folder in list(self._results_of(function).glob("*/")):
            if folder != besides:
                remove_directory(folder)

    def _keep_others_out(self) -> None:
        """Lock the folder of results until the stage is done."""
        if self._is_locked:
            return
        # Needed for several shards alone.
        from toygpt.pipeline.lock import AlreadyLockedError, locked

        lock = self._folder.with_suffix(".lock")
        try:
            self._lock.enter_context(locked(lock, wait=False))
        except AlreadyLockedError as error:
            print(f"waiting for {error.holder}, which has the shards of {self._folder}")
            self._lock.enter_context(locked(lock))
        self._is_locked = True
        sweep_leftovers(self._folder.parent, self._folder.name)
        cancel_arrays(self._folder)


def run_with_retries(
    run: Run,
    tasks: Sequence[Task],
    workers: int | None,
    advance: Advance,
    *,
    advice: str,
) -> None:
    """Run all tasks; those whose worker was killed again, after all the others.

    Then half as many run at once: it may have been memory that was lacking.

    Raises:
        InputError: A task raised it, or killed each of its workers.
        OSError: A task raised it.
    """
    left = list(tasks)
    for _ in range(ATTEMPTS):
        if not left:
            return
        killed = []
        with _sigterm_as_exit(), closing(run(left, workers)) as outcomes:
            for task, error in outcomes:
                if isinstance(error, WorkerKilledError):
                    tqdm.write(f"{task.name}: its worker was killed ({error})")
                    killed.append((task, error))
                elif error is not None:
                    raise error
                else:
                    advance(task.size)
        left = [task for task, _ in killed]
        workers = max(1, (workers or len(left)) // 2)
    if left:
        task, error = killed[0]
        raise InputError(
            f"{task.name}: {ATTEMPTS} workers were killed over it (the last: {error}). "
            f"If memory was lacking, {advice}; a rerun does only the shards that are "
            f"missing"
        )


def run_of(engine: str) -> Run:
    """Return the function that runs tasks on an engine.

    Raises:
        InputError: Its package is not installed.
    """
    try:
        if engine == "slurm":
            from toygpt.data.engines import slurm_engine

            return slurm_engine.run
        if engine == "ray":
            from toygpt.data.engines import ray_engine

            return ray_engine.run
    except ModuleNotFoundError as error:
        raise InputError(
            f"runtime.data_engine in params.yaml is {engine}, which needs the package "
            f"{error.name}: run `{INSTALL[engine]}`"
        ) from None
    from toygpt.data.engines import local_engine

    return local_engine.run


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """End Python by SIGTERM as by an exception, so that no worker is left."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
