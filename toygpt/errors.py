"""The one exception that speaks to the user."""


class InputError(ValueError):
    """Something a user gave cannot be used: a parameter, a file, a folder.

    The message says what was got, what is allowed, and which key or file to change.
    """
