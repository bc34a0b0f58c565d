"""Whole trainings, each in a process: equal bits, and ends with a message.

They train as the stage `train` does, with `runtime.deterministic`, but without what
the stage needs around it: params.yaml, trackers, and the folder of checkpoints.
"""

import hashlib
import json
import os
import signal
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import RLock, Thread
from types import SimpleNamespace, TracebackType
from typing import Any, Self
from unittest.mock import patch

import torch
from tqdm import tqdm

from benchmarks.gpu.rungs import LEARNING_RATES
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.sizes import two_layers
from benchmarks.measure import Figures
from benchmarks.settings import runtime_settings, train_settings
from benchmarks.training import Task
from toygpt.model.gpt import GPT
from toygpt.pipeline.errors import InputError
from toygpt.resuming.checkpoint import CheckpointFolder
from toygpt.resuming.checkpoint_schedule import CheckpointSchedule
from toygpt.resuming.signals import Interruption
from toygpt.training.checkpointing import Checkpointing
from toygpt.training.launch import launch
from toygpt.training.loop import train
from toygpt.training.precision import resolve_kernels
from toygpt.training.report import Curves

STEPS = 12
SAVED_EVERY = 4  # steps
KILLED_IN = 7  # the step after which the process is killed
SEQUENCES = 8
TOO_FEW_BYTES = 400_000_000  # weights and gradients alone take more
SECONDS = 60  # that a trial may take
# Not compiled: they show the same without, and the machine's cores are busy.
NEVER_COMPILED = ("too large", "diverging")


class OneCheckpoint(CheckpointFolder):
    """A folder with the newest checkpoint."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.file = folder / "newest.ckpt"

    def save(self, step: int, checkpoint: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        new = self.file.with_suffix(".new")
        torch.save({"step": step, "checkpoint": checkpoint}, new)
        new.replace(self.file)

    def best_checkpoint(self) -> Any:
        """Return the checkpoint, or None where none was saved yet."""
        if not self.file.exists():
            return None
        return SimpleNamespace(**torch.load(self.file, map_location="cpu"))

    def load(self, checkpoint: Any) -> dict[str, Any]:
        """Return its contents."""
        contents: dict[str, Any] = checkpoint.checkpoint
        return contents


class Killer:
    """A logger that kills its process after a step."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Kill."""
        if step == KILLED_IN:
            os.kill(os.getpid(), signal.SIGKILL)


def out_of_memory(*_: Any, **__: Any) -> Any:
    """Take the place of the network where no GPU can run out of memory."""
    raise torch.OutOfMemoryError


def run_trial(
    name: str, task: Task, is_compiled: bool, folder: Path, group: int
) -> None:
    """Train, and write a digest of the result, or the message of the error."""
    os.setpgid(0, group)  # so that it is stopped with the part that it belongs to
    tqdm.set_lock(RLock())  # a killed process would leave the usual one behind
    result: dict[str, Any] = {}
    network: Any = nullcontext()
    changes: dict[str, float] = {}
    if name == "diverging":
        changes = dict.fromkeys(LEARNING_RATES, 1e30)
    if name == "too large":
        if task.device.type == "cuda":
            memory = torch.cuda.get_device_properties(task.device).total_memory
            torch.cuda.set_per_process_memory_fraction(TOO_FEW_BYTES / memory)
        else:
            network = patch.object(GPT, "read", out_of_memory)
    try:
        with network:
            result["digest"] = train_for_digest(
                task,
                folder,
                is_compiled=is_compiled,
                curves=Curves(Killer() if name == "killed" else None),
                **changes,
            )
    except InputError as error:
        result["message"] = str(error)
    (folder / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")


def train_for_digest(
    task: Task, folder: Path, *, is_compiled: bool, curves: Curves, **changes: float
) -> str:
    """Train from the checkpoint in the folder if there is one; digest the weights."""
    block_size = task.config.block_size
    params = train_settings(
        steps=STEPS,
        batch_size=SEQUENCES,
        block_size=block_size,
        warmup_tokens=2 * SEQUENCES * block_size,
        **LEARNING_RATES | changes,
    )
    runtime: Any = runtime_settings(
        compile=is_compiled, micro_batch_size=SEQUENCES // 2, deterministic=True
    )
    torch.manual_seed(0)
    model = GPT(task.config, attention=task.attention)
    with Interruption() as interruption:
        train(
            launch(runtime, precision="bf16-mixed"),
            model,
            task.tokens(),
            task.tokens(),
            params=params,
            runtime=runtime,
            seed=0,
            curves=curves,
            kernels=resolve_kernels("auto", precision="bf16-mixed", accelerator="auto"),
            checkpoints=Checkpointing(
                OneCheckpoint(folder),
                CheckpointSchedule(SAVED_EVERY, every_minutes=1e9),
                interruption,
            ),
        )
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


class Trials:
    """The trials of a part: processes, and a folder for each."""

    def __init__(self, setup: Setup) -> None:
        self.context: Any = get_context("fork" if setup.is_dry_run else "spawn")
        self.run = partial(run_trial, task=two_layers(setup))
        self.is_compiled = not setup.is_dry_run
        self.processes: dict[str, BaseProcess] = {}
        self.starters: list[Thread] = []

    def __enter__(self) -> Self:
        self._folder = TemporaryDirectory()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in list(self.processes.values()):
            process.kill()  # so that the starters need not wait any more
        for starter in self.starters:
            starter.join()
        for process in self.processes.values():
            process.kill()
            process.join()
        self._folder.cleanup()

    def start(self, *names: str, folder: str | None = None) -> None:
        """Start trials, each in a folder of its own, or in the one that is named."""
        for name in names:
            place = Path(self._folder.name) / (folder or name)
            place.mkdir(exist_ok=True)
            process = self.context.Process(
                target=self.run,
                kwargs={
                    "name": name,
                    "is_compiled": self.is_compiled and name not in NEVER_COMPILED,
                    "folder": place,
                    "group": os.getpgid(0),
                },
            )
            process.start()
            self.processes[name] = process

    def start_after(self, first: str, folders: Mapping[str, str]) -> None:
        """Start trials, each in its folder, as soon as a first one has ended."""

        def wait_and_start() -> None:
            self.processes[first].join(SECONDS)
            for name, folder in folders.items():
                self.start(name, folder=folder)

        if (
            self.context.get_start_method() == "fork"
        ):  # to fork beside another thread is not safe
            wait_and_start()
            return
        self.starters.append(Thread(target=wait_and_start))
        self.starters[-1].start()

    def wait(self, *names: str) -> list[dict[str, Any]]:
        """Return the results of trials; empty where there is none."""
        for starter in self.starters:
            starter.join()
        for name in names:
            self.processes[name].join(SECONDS)
        files = [[*Path(self._folder.name).glob(f"*/{name}.json")] for name in names]
        return [json.loads(file[0].read_text()) if file else {} for file in files]


def measure_trials(setup: Setup, trials: Trials) -> None:
    """Compare a training with the same again, and with one that was killed."""
    straight, again, killed, resumed, too_large, diverging = trials.wait(
        "straight", "again", "killed", "resumed", "too large", "diverging"
    )
    bits = straight.get("digest")
    was_killed = not killed and trials.processes["killed"].exitcode == -signal.SIGKILL
    found = {
        "the same training again: the same bits": bits == again.get("digest"),
        f"killed after step {KILLED_IN} of {STEPS}, and resumed: the same bits": (
            was_killed and bits == resumed.get("digest")
        ),
        f"out of memory: {too_large.get('message', 'no message')}": (
            "out of memory" in too_large.get("message", "")
        ),
        f"diverging: {diverging.get('message', 'no message')}": (
            "training diverged" in diverging.get("message", "")
        ),
    }
    setup.report(
        "trials",
        "Are trainings reproducible, and do they end with a message?",
        [
            Figures(name, {"verdict": "right" if is_right and bits else "WRONG"})
            for name, is_right in found.items()
        ],
        network="`small` with two layers",
        deterministic="true",
    )
