"""Warnings: one line each, for the user."""

import sys


def warn(message: str) -> None:
    """Print a warning, at once: several processes write to the same terminal."""
    print(f"warning: {message}", file=sys.stderr, flush=True)
