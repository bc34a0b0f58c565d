"""What speaks to the user when something goes wrong."""


class InputError(ValueError):
    """Something a user gave cannot be used: a parameter, a file, a folder.

    The message says what was got, what is allowed, and which key or file to change.
    """


def first_line(error: BaseException) -> str:
    """Return what an error of another library says, without its explanations."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
