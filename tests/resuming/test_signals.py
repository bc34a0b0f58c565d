"""Signals: one ends a training in good order, a second one at once."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults.kills import wait_until
from tests.project import PATIENCE_SECONDS
from tests.tiny import predictable_text, runtime_params, tiny_model, train_params
from toygpt.data.batches import TrainingBatches
from toygpt.pipeline.process import own_signals
from toygpt.resuming.run_folder import RunFolder, open_run_folder
from toygpt.resuming.signals import SIGNALS, Interruption, Stopped
from toygpt.training.checkpoints import Checkpoints
from toygpt.training.module import Training
from toygpt.training.report import Curves
from toygpt.training.trainer import train

# Processes that have imported everything before they begin.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


class Silence:
    """A listener that hears nothing."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Do nothing."""


def train_slowly(root: Path, slow: str, test: Connection) -> None:
    """Train, and wait for the test in the midst of whatever is to be slow."""
    torch.set_num_threads(1)
    os.dup2(os.open(root / "errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)

    def slow_down(owner: type, name: str) -> None:
        method = getattr(owner, name)

        def waiting(*arguments: Any, **more: Any) -> Any:
            test.send(slow)
            test.recv()
            return method(*arguments, **more)

        setattr(owner, name, waiting)

    if slow in SLOW:
        slow_down(*SLOW[slow])
    every_tokens = {"last validation": 400, "validated step": 640}
    runtime = runtime_params(checkpoint_every_steps=3 if slow == "checkpoint" else None)
    text = predictable_text(1_000)
    with open_run_folder(root, {}) as unfinished, Interruption() as interruption:
        best = unfinished.best_checkpoint()
        test.send(best.step if best else 0)
        train(
            tiny_model(num_layers=1),
            text,
            text,
            params=train_params(validate_every_tokens=every_tokens.get(slow, 10**9)),
            runtime=runtime,
            seed=1,
            curves=Curves(Silence()),
            checkpoints=Checkpoints(unfinished, runtime, interruption),
            resume_from=unfinished.path_of(best) if best else None,
        )


SLOW: dict[str, tuple[type, str]] = {
    "step": (TrainingBatches, "batch"),
    "validated step": (TrainingBatches, "batch"),
    "start": (Training, "configure_optimizers"),
    "checkpoint": (RunFolder, "_commit"),
    "last validation": (Training, "on_validation_epoch_end"),
}


class Trained:
    """A training in a process of its own."""

    def __init__(self, root: Path, slow: str) -> None:
        self.errors = root / "errors"
        self.slow = slow
        self.connection, other = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=train_slowly, args=(root, slow, other))
        self.process.start()
        other.close()

    def wait_for(self, word: str | int, *, times: int = 1) -> None:
        """Wait until it has said a word so many times; it waits after the last."""
        while times:
            assert self.connection.poll(PATIENCE_SECONDS), "it says nothing"
            said = self.connection.recv()
            times -= said == word
            if times and said == self.slow:
                self.go_on()

    def go_on(self) -> None:
        """Let it go on with what is slow."""
        self.connection.send(None)

    def signal(self, number: int) -> None:
        """Send a signal, and wait until it has been noted."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        wait_until(self.errors.read_bytes)

    def end(self) -> int | None:
        """Return its exit code."""
        self.process.join(PATIENCE_SECONDS)
        return self.process.exitcode


def signalled_in_step_4(root: Path, *numbers: int) -> Trained:
    """Return a training that has got these signals in the midst of its fourth step."""
    training = Trained(root, "step")
    training.wait_for("step", times=4)
    for number in numbers:
        training.signal(number)
    return training


def steps_kept(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob(".toygpt/resume/*/step-*"))


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)],
)
def test_the_first_signal_lets_the_step_be_finished_and_kept(
    tmp_path: Path, number: int, code: int
) -> None:
    training = signalled_in_step_4(tmp_path, number)
    training.go_on()

    assert training.end() == code
    assert training.errors.read_text().split("\n") == [
        "",
        "stopping after this step; what is done is kept (once more: at once)",
        f"stopped by {signal.Signals(number).name} after step 4; the same command "
        f"goes on from there",
        "",
    ]
    assert steps_kept(tmp_path) == ["step-4.ckpt"]


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (signal.SIGINT, signal.SIGINT, 130),
        (signal.SIGTERM, signal.SIGINT, 130),
        (signal.SIGINT, signal.SIGTERM, 143),
    ],
)
def test_the_second_signal_ends_it_at_once(
    tmp_path: Path, first: int, second: int, code: int
) -> None:
    """In the midst of a step, which is not finished and not kept."""
    training = signalled_in_step_4(tmp_path, first, second)

    assert training.end() == code
    assert steps_kept(tmp_path) == []


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (signal.SIGUSR1, signal.SIGUSR1, 138),
        (signal.SIGUSR1, signal.SIGTERM, 143),
        (signal.SIGUSR1, signal.SIGINT, 130),
        (signal.SIGTERM, signal.SIGUSR1, 143),
    ],
)
def test_an_announced_end_is_neither_the_first_nor_the_second_signal(
    tmp_path: Path, first: int, second: int, code: int
) -> None:
    """Slurm sends SIGUSR1, if asked to, and SIGTERM when the time is over."""
    training = signalled_in_step_4(tmp_path, first, second)
    training.go_on()

    assert training.end() == code
    assert steps_kept(tmp_path) == ["step-4.ckpt"]


@pytest.mark.parametrize("first", SIGNALS)
def test_the_end_of_dvc_is_no_second_signal(first: int) -> None:
    """What ends a whole group of processes ends DVC, too: our own SIGTERM follows."""
    with Interruption() as interruption:
        os.kill(os.getpid(), first)
        own_signals.append(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    assert interruption.signal == first
    assert own_signals == []


def test_a_kill_costs_what_came_after_the_last_validation(tmp_path: Path) -> None:
    """Ten steps, validated after five."""
    training = Trained(tmp_path, "validated step")
    training.wait_for("validated step", times=9)
    assert training.process.pid is not None
    os.kill(training.process.pid, signal.SIGKILL)
    assert training.end() == -signal.SIGKILL

    resumed = Trained(tmp_path, "nothing")
    resumed.wait_for(5)

    assert resumed.end() == 0


def test_the_second_signal_harms_no_checkpoint_that_is_being_written(
    tmp_path: Path,
) -> None:
    training = Trained(tmp_path, "checkpoint")
    training.wait_for("checkpoint", times=3)  # at the start, after steps 3 and 6
    training.signal(signal.SIGINT)
    training.signal(signal.SIGINT)
    assert training.end() == 130
    assert steps_kept(tmp_path) == ["step-3.ckpt", "step-6.ckpt"]

    resumed = Trained(tmp_path, "nothing")
    resumed.wait_for(3)

    assert resumed.end() == 0


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_the_first_step_is_not_lost(
    tmp_path: Path, number: int
) -> None:
    """Lightning takes SIGTERM from here on, and would end with an exit code of 0."""
    training = Trained(tmp_path, "start")
    training.wait_for("start")
    training.signal(number)
    training.go_on()

    assert training.end() == 128 + number
    assert steps_kept(tmp_path) == ["step-1.ckpt"]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_last_validation_breaks_nothing(
    tmp_path: Path, number: int
) -> None:
    """Ten steps, validated after 4, 8 and 10: nothing is left to stop by then."""
    training = Trained(tmp_path, "last validation")
    training.wait_for("last validation", times=3)
    training.signal(number)
    training.go_on()

    assert training.end() == 0


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, lambda *_: None])
def test_afterwards_signals_are_handled_as_before(
    handler: object, request: pytest.FixtureRequest
) -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            signal.signal(number, handler)  # type: ignore[arg-type]
        with pytest.raises(ZeroDivisionError), Interruption():
            assert handler not in {signal.getsignal(number) for number in SIGNALS}
            raise ZeroDivisionError
        after = [signal.getsignal(number) for number in SIGNALS]
    finally:
        for number, there in before.items():
            signal.signal(number, there)

    assert after == [handler] * len(SIGNALS)


def test_a_signal_while_something_is_being_printed_is_no_error() -> None:
    """Python's files refuse to be used by a handler that interrupts their use."""
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.0005):
            interruption.signal = None
            os.kill(os.getpid(), signal.SIGINT)

    with Interruption() as interruption:
        sender = threading.Thread(target=send)
        sender.start()
        try:
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                print("." * 10_000, file=sys.stderr, flush=True)
        finally:
            stop.set()
            sender.join()


def test_the_exit_code_says_by_which_signal_and_the_reason_after_which_step() -> None:
    stopped = Stopped(signal.SIGTERM, 1_200, is_rank_zero=True)

    assert stopped.code == 143
    assert str(stopped) == "stopped by SIGTERM after step 1,200"
    assert Stopped(signal.SIGTERM, 1_200, is_rank_zero=False).code == 0
