"""Signals: the first ends a training after its step, a second one ends it at once."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.resuming.tiny_training import before_call, steps_kept, train_tiny
from toygpt.data.batches import TrainingBatches
from toygpt.pipeline.process import own_signals
from toygpt.resuming.checkpoint import CheckpointFolder
from toygpt.resuming.signals import SIGNALS, Interruption, Stopped
from toygpt.training import loop

INT, TERM, USR1, KILL = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGKILL,
)
# Ten steps. A signal comes while the fourth one is computed, ...
STEP_4 = (TrainingBatches, "batch", 4)
# ... before the first, while the second checkpoint of a training is saved, ...
START = (loop, "build_optimizer", 1)
CHECKPOINT_AFTER_6 = (CheckpointFolder, "keep", 3)
# ... and in the validation after the last step.
LAST_VALIDATION = (loop, "validate", 2)


Moment = tuple[Any, str, int]  # before a call of a function, see `before_call`


@pytest.fixture
def child(tmp_path: Path) -> "Child":
    return Child(tmp_path)


class Child:
    """Trains in forks of this process, where signals may come at a moment."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def train(self, moment: Moment | None = None, *numbers: int, **options: Any) -> int:
        """Train, with these signals at that moment; return the exit code."""
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        code = 99
        try:
            os.dup2(os.open(self.root / "errors", os.O_WRONLY | os.O_CREAT), 2)
            sys.stderr = os.fdopen(2, "w")
            if moment is None:
                train_tiny(self.root, **options)
            else:
                owner, name, number = moment
                with before_call(owner, name, number, lambda: send(numbers)):
                    train_tiny(self.root, **options)
            code = 0
        except Stopped as stopped:
            code = int(str(stopped.code))
        finally:
            sys.stderr.flush()
            os._exit(code)

    @property
    def errors(self) -> list[str]:
        """What it has written for its user."""
        return (self.root / "errors").read_text().split("\n")


def send(numbers: tuple[int, ...]) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(TERM, 143), (INT, 130), (USR1, 138)])
def test_the_first_signal_lets_the_step_be_finished_and_saved(
    child: Child, number: int, code: int
) -> None:
    assert child.train(STEP_4, number) == code

    assert child.errors == [
        "",
        "stopping after this step, which is saved (once more: at once)",
        f"stopped by {signal.Signals(number).name} after step 4; the same command "
        f"resumes from there",
        "",
    ]
    assert steps_kept(child.root) == [4]


@pytest.mark.parametrize(
    ("moment", "numbers", "code", "kept"),
    [
        (STEP_4, (INT, INT), 130, []),
        (STEP_4, (TERM, INT), 130, []),
        (STEP_4, (INT, TERM), 143, []),
        (STEP_4, (USR1, USR1), 138, [4]),
        (STEP_4, (USR1, TERM), 143, [4]),
        (STEP_4, (USR1, INT), 130, [4]),
        (STEP_4, (TERM, USR1), 143, [4]),
        (START, (TERM,), 143, [1]),
        (START, (INT,), 130, [1]),
        (START, (USR1,), 138, [1]),
        (LAST_VALIDATION, (TERM,), 143, [10, 5]),
        (LAST_VALIDATION, (INT,), 130, [10, 5]),
    ],
)
def test_a_second_signal_ends_training_at_once_unless_the_first_was_an_announcement(
    child: Child, moment: Any, numbers: tuple[int, ...], code: int, kept: list[int]
) -> None:
    """Slurm sends SIGUSR1, if asked to, and SIGTERM when the time is over."""
    assert child.train(moment, *numbers) == code
    assert steps_kept(child.root) == kept

    assert child.train() == 0


def test_the_second_signal_harms_no_checkpoint_that_is_being_saved(
    child: Child,
) -> None:
    every = {"checkpoint_every_steps": 3}

    assert child.train(CHECKPOINT_AFTER_6, INT, INT, runtime=every) == 130

    (folder,) = child.root.glob(".toygpt/resume/*")
    assert {"step-3.ckpt", "step-6.ckpt"} <= {path.name for path in folder.iterdir()}
    assert steps_kept(child.root) == [3], "the newer one does not count yet"
    assert child.train() == 0


def test_a_kill_costs_the_steps_since_the_last_validation(child: Child) -> None:
    """Ten steps, validated after five."""
    assert child.train((TrainingBatches, "batch", 9), KILL) == -KILL

    assert steps_kept(child.root) == [5]


@pytest.mark.parametrize("first", SIGNALS)
def test_the_end_of_dvc_is_not_a_second_signal(first: int) -> None:
    """A signal to a whole group of processes ends DVC, too: our own SIGTERM follows."""
    with Interruption() as interruption:
        os.kill(os.getpid(), first)
        own_signals.append(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    assert interruption.signal == first
    assert own_signals == []


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of this process, afterwards as they were before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, lambda *_: None])
def test_afterwards_signals_are_handled_as_before(
    handlers: None, handler: object
) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)  # type: ignore[arg-type]

    with pytest.raises(ZeroDivisionError), Interruption():
        assert handler not in {signal.getsignal(number) for number in SIGNALS}
        raise ZeroDivisionError

    assert [signal.getsignal(number) for number in SIGNALS] == [handler] * 3


def test_a_signal_while_something_is_being_printed_is_not_an_error() -> None:
    """Python's files refuse to be used by a handler that interrupts their use."""
    stop = threading.Event()

    def send_often() -> None:
        while not stop.wait(0.0005):
            interruption.signal = None
            os.kill(os.getpid(), signal.SIGINT)

    with Interruption() as interruption:
        sender = threading.Thread(target=send_often)
        sender.start()
        try:
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                print("." * 10_000, file=sys.stderr, flush=True)
        finally:
            stop.set()
            sender.join()


def test_the_exit_code_names_the_signal_and_the_reason_the_step() -> None:
    stopped = Stopped(signal.SIGTERM, 1_200, is_rank_zero=True)

    assert stopped.code == 143
    assert str(stopped) == "stopped by SIGTERM after step 1,200"
    assert Stopped(signal.SIGTERM, 1_200, is_rank_zero=False).code == 0
