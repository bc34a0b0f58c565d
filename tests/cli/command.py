"""A command of toyGPT in the process of the test, and its output."""

from collections.abc import Callable
from typing import NamedTuple


class Output(NamedTuple):
    """The exit code of a command, and its two streams."""

    code: int
    out: str
    err: str


Toygpt = Callable[..., Output]


def assert_refused(output: Output, *parts: str) -> None:
    """Check that a mistake ends the command with one message, which has these parts."""
    assert output.code == 2
    assert output.out == ""
    assert output.err.count("error: ") == 1
    assert output.err.startswith(("error: ", "usage: "))
    for part in parts:
        assert part in output.err
