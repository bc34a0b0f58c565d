"""Signals: the first ends a training after its step, a second one ends it at once."""

import io
import os
import signal
import sys
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from tests.resuming.tiny_training import before_call, steps_kept, train_tiny
from toygpt.data.batches import TrainingBatches
from toygpt.pipeline.process import LAUNCHED, own_signals
from toygpt.resuming.checkpoint import CheckpointFolder
from toygpt.resuming.signals import SIGNALS, Interruption
from toygpt.training import loop

INT, TERM, USR1, KILL = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGKILL,
)
# Ten steps, validated after five. A signal comes while one of them is computed, ...
MOMENTS: dict[str, tuple[Any, str, int]] = {
    "in step 4": (TrainingBatches, "sequences", 4),
    "in step 9": (TrainingBatches, "sequences", 9),
    # ... before the first, while the first checkpoint of a training is saved, ...
    "at the start": (loop, "build_optimizer", 1),
    "saving step 5": (CheckpointFolder, "remove_all_but", 2),
    # ... and in the validation after the last step.
    "validating last": (loop, "validate", 2),
}


def train_in_fork(root: Path, moment: str = "", *numbers: int) -> int | None:
    """Train, with these signals at that moment; return the exit code.

    The fork is one of a fresh process: one of this process could not compute gradients,
    if another test has made PyTorch start threads for them.
    """
    forks = get_context("forkserver")
    forks.set_forkserver_preload([__name__])
    process = forks.Process(target=train, args=(root, moment, numbers))
    process.start()
    process.join()
    return process.exitcode


def train(root: Path, moment: str, numbers: tuple[int, ...]) -> None:
    os.dup2(os.open(root / "errors", os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = os.fdopen(2, "w")

    def send() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    with before_call(*MOMENTS[moment], send) if moment else nullcontext():
        train_tiny(root)


@pytest.mark.parametrize(
    ("moment", "numbers", "code", "kept"),
    [
        ("in step 4", (TERM,), 143, [4]),
        ("in step 4", (INT,), 130, [4]),
        ("in step 4", (USR1,), 138, [4]),
        ("in step 4", (INT, INT), 130, []),
        ("in step 4", (TERM, INT), 130, []),
        ("in step 4", (INT, TERM), 143, []),
        # Slurm sends SIGUSR1, if asked to, and SIGTERM when the time is over.
        ("in step 4", (USR1, USR1), 138, [4]),
        ("in step 4", (USR1, TERM), 143, [4]),
        ("in step 4", (USR1, INT), 130, [4]),
        ("in step 4", (TERM, USR1), 143, [4]),
        ("at the start", (TERM,), 143, [1]),
        ("at the start", (INT,), 130, [1]),
        ("at the start", (USR1,), 138, [1]),
        ("validating last", (TERM,), 143, [10, 5]),
        # The checkpoint before counts until the newer one is whole and named.
        ("saving step 5", (INT, INT), 130, []),
        # A kill costs the steps since the last validation.
        ("in step 9", (KILL,), -KILL, [5]),
    ],
)
def test_the_first_signal_lets_the_step_be_saved_and_a_second_one_ends_it_at_once(
    tmp_path: Path, moment: str, numbers: tuple[int, ...], code: int, kept: list[int]
) -> None:
    assert train_in_fork(tmp_path, moment, *numbers) == code
    assert steps_kept(tmp_path) == kept

    assert train_in_fork(tmp_path) == 0


def test_a_signal_is_answered_by_what_happens_now_and_how_to_resume(
    tmp_path: Path,
) -> None:
    train_in_fork(tmp_path, "in step 4", USR1)

    assert (tmp_path / "errors").read_text() == (
        "\nstopping after this step, which is saved (once more: at once)\n"
        "stopped by SIGUSR1 after step 4; the same command resumes from there\n"
    )


@pytest.mark.parametrize("first", SIGNALS)
def test_the_end_of_dvc_is_not_a_second_signal(first: int) -> None:
    """A signal to a whole group of processes ends DVC, too: our own SIGTERM follows."""
    with Interruption() as interruption:
        os.kill(os.getpid(), first)
        own_signals.append(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    assert interruption.signal == first
    assert own_signals == []


def test_a_rank_takes_no_signal_for_a_second_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its launcher passes on the one that it may have got already."""
    monkeypatch.setenv(LAUNCHED, "srun")
    with Interruption() as interruption:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)

    assert interruption.signal == signal.SIGTERM
    assert capfd.readouterr().err == "\nstopping after this step, which is saved\n"


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, lambda *_: None])
def test_afterwards_signals_are_handled_as_before(handler: Any) -> None:
    before = [signal.signal(number, handler) for number in SIGNALS]
    try:
        with pytest.raises(ZeroDivisionError), Interruption():
            assert handler not in {signal.getsignal(number) for number in SIGNALS}
            raise ZeroDivisionError
    finally:
        after = [*map(signal.signal, SIGNALS, before)]

    assert after == [handler] * 3


class InterruptedStream(io.RawIOBase):
    """A file to which each write is interrupted by a signal."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return len(data)


def test_a_signal_while_something_is_being_printed_is_not_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python's files refuse to be used by a handler that interrupts their use."""
    stream = io.TextIOWrapper(io.BufferedWriter(InterruptedStream()))
    monkeypatch.setattr(sys, "stderr", stream)

    with Interruption() as interruption:
        print("losses", file=sys.stderr, flush=True)

    assert interruption.signal == signal.SIGINT
