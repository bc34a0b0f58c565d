"""What speaks to the user when something goes wrong."""

import sys


class InputError(ValueError):
    """Something a user gave cannot be used: a parameter, a file, a folder.

    The message says what was got, what is allowed, and which key or file to change.
    """


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Return what to do about a package that this Python lacks, in one line.

    Returns:
        Nothing if the package is our own: then it is a fault in the code.
    """
    package = (error.name or "toygpt").partition(".")[0]
    if package in ("toygpt", "stages"):
        return None
    return (
        f"{sys.executable} has no package {package!r}: put `uv run` before the "
        f"command, or activate the project's environment (source .venv/bin/activate)"
    )


def first_line(error: BaseException) -> str:
    """Return what an error of another library says, without its explanations."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
