"""Errors that are messages to the user."""

import sys


class InputError(ValueError):
    """A user's input cannot be used: a parameter, a file, a folder.

    The message names the input, what is allowed, and which key or file to change.
    """


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Return in one line what to do about a package that this Python lacks.

    Returns:
        None if the package is our own: then it is a fault in the code.
    """
    package = (error.name or "toygpt").partition(".")[0]
    if package in ("toygpt", "stages"):
        return None
    return (
        f"{sys.executable} has no package {package!r}: put `uv run` before the "
        f"command, or activate the project's environment (source .venv/bin/activate)"
    )


def first_line(error: BaseException) -> str:
    """Return the message of another library's error, without its explanations."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
