"""Stop between two steps: a signal ends training once its step is saved."""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any, Self

from toygpt.pipeline.process import is_launched, own_signals

# Slurm sends SIGUSR1 some time before a job's end: `sbatch --signal=USR1@90`.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
STDERR = 2
MESSAGE = b"\nstopping after this step, which is saved (once more: at once)\n"
MESSAGE_OF_RANKS = b"\nstopping after this step, which is saved\n"


class Stopped(SystemExit):
    """A signal stopped training; the exit code names it, as a shell would.

    Of several ranks, rank zero alone has that exit code: Lightning kills rank zero five
    seconds after any other rank has ended with an error.
    """

    def __init__(self, number: int, step: int, *, is_rank_zero: bool) -> None:
        super().__init__(128 + number if is_rank_zero else 0)
        self.reason = f"stopped by {signal.Signals(number).name} after step {step:,}"

    def __str__(self) -> str:
        return self.reason


class Interruption:
    """Notes a signal that asks training to stop.

    After the first signal the current step is finished and saved. A second signal ends
    the process at once; earlier checkpoints are as good as ever.

    SIGUSR1 announces another signal, so neither counts as the second one. Nor does the
    SIGTERM that this process sends itself when DVC is gone: the signal that ended DVC
    may have reached this process as well. A launcher passes on signals that the ranks
    may have got already: for them there is no second one. It kills those that stay.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._handlers_before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._handlers_before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        if isinstance(error, Stopped) and error.code:
            print(f"{error}; the same command resumes from there", file=sys.stderr)

    def _note(self, number: int, _: FrameType | None) -> None:
        is_own = number in own_signals
        if is_own:
            own_signals.remove(number)
        if self.signal is not None:
            if is_own or number == signal.SIGUSR1 or is_launched():
                return
            if self.signal != signal.SIGUSR1:
                os._exit(128 + number)
        self.signal = number
        # `print` may be running at this very moment, and cannot be entered twice.
        with suppress(OSError):  # the terminal may be gone
            os.write(STDERR, MESSAGE_OF_RANKS if is_launched() else MESSAGE)
