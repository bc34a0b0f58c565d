"""Signals: the first ends a training after its step, a second one ends it at once."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
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
# Ten steps, validated after five. A signal comes while one of them is computed, ...
STEP_4 = (TrainingBatches, "sequences", 4)
STEP_9 = (TrainingBatches, "sequences", 9)
# ... before the first, while the first checkpoint of a training is saved, ...
START = (loop, "build_optimizer", 1)
CHECKPOINT_AFTER_5 = (CheckpointFolder, "keep", 2)
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

    def train(self, moment: Moment | None = None, *numbers: int) -> int:
        """Train, with these signals at that moment; return the exit code."""
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        code = 99
        try:
            os.dup2(os.open(self.root / "errors", os.O_WRONLY | os.O_CREAT), 2)
            sys.stderr = os.fdopen(2, "w")
            with (
                before_call(*moment, lambda: send(numbers)) if moment else nullcontext()
            ):
                train_tiny(self.root)
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


@pytest.mark.parametrize(
    ("moment", "numbers", "code", "kept"),
    [
        (STEP_4, (TERM,), 143, [4]),
        (STEP_4, (INT,), 130, [4]),
        (STEP_4, (USR1,), 138, [4]),
        (STEP_4, (INT, INT), 130, []),
        (STEP_4, (TERM, INT), 130, []),
        (STEP_4, (INT, TERM), 143, []),
        # Slurm sends SIGUSR1, if asked to, and SIGTERM when the time is over.
        (STEP_4, (USR1, USR1), 138, [4]),
        (STEP_4, (USR1, TERM), 143, [4]),
        (STEP_4, (USR1, INT), 130, [4]),
        (STEP_4, (TERM, USR1), 143, [4]),
        (START, (TERM,), 143, [1]),
        (START, (INT,), 130, [1]),
        (START, (USR1,), 138, [1]),
        (LAST_VALIDATION, (TERM,), 143, [10, 5]),
        # The checkpoint before counts until the newer one is whole and named.
        (CHECKPOINT_AFTER_5, (INT, INT), 130, []),
        # A kill costs the steps since the last validation.
        (STEP_9, (KILL,), -KILL, [5]),
    ],
)
def test_the_first_signal_lets_the_step_be_saved_and_a_second_one_ends_it_at_once(
    child: Child, moment: Any, numbers: tuple[int, ...], code: int, kept: list[int]
) -> None:
    assert child.train(moment, *numbers) == code
    assert steps_kept(child.root) == kept

    assert child.train() == 0


def test_a_signal_is_answered_by_what_happens_now_and_how_to_resume(
    child: Child,
) -> None:
    child.train(STEP_4, USR1)

    assert child.errors == [
        "",
        "stopping after this step, which is saved (once more: at once)",
        "stopped by SIGUSR1 after step 4; the same command resumes from there",
        "",
    ]


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
