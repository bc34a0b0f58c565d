"""Stop between two steps: what a SIGTERM or Ctrl-C asks for is done in good order."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(SystemExit):
    """Training was told to stop; the exit code says by which signal."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(128 + number)
        self.reason = f"stopped by {signal.Signals(number).name} after step {step:,}"

    def __str__(self) -> str:
        return self.reason


class Interruption:
    """Notes that the user, or the machine, wants training to stop.

    The first signal is noted, so that the step at hand is finished and kept. A second
    one ends the process at once; what was kept before is as good as ever.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._handlers_before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._handlers_before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals; Lightning would make an exit code of 0 or 1 of them."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        print(
            "\nstopping after this step; what is done is kept (once more: at once)",
            file=sys.stderr,
            flush=True,
        )
