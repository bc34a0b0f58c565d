"""Ways in which a file can be damaged."""


def truncated(content: bytes) -> bytes:
    """Return a file that was not written to its end."""
    return content[: len(content) // 2]


def without_data(content: bytes) -> bytes:
    """Return a file that looks whole from its end, where readers look first."""
    middle = len(content) // 2
    return content[:4] + bytes(middle - 4) + content[middle:]
