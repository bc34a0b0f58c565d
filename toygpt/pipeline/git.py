"""Ask Git about the project."""

import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path

SET_IDENTITY = (
    'git config --global user.name "Your Name" && '
    "git config --global user.email you@example.com"
)


def git(folder: Path, *arguments: str) -> str:
    """Return what Git answers.

    Raises:
        OSError: Git refuses, or is not installed.
    """
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def git_or_nothing(folder: Path, *arguments: str) -> str:
    """Return what Git answers, or nothing where it refuses or is not installed."""
    with suppress(OSError):
        return git(folder, *arguments)
    return ""


def identity_problem(root: Path) -> str | None:
    """Say what Git does not know of the user, if DVC's experiments need it.

    DVC puts edits of tracked files aside when an experiment begins, by a commit for
    which it must know both; for the commit of the experiment itself it guesses.
    """
    missing = [
        key
        for key in ("name", "email")
        if not os.environ.get(f"GIT_COMMITTER_{key.upper()}")
        and not git_or_nothing(root, "config", f"user.{key}")
    ]
    if not missing:
        return None
    return (
        f"Git does not know your {' and '.join(missing)}, which DVC's experiments need"
    )


def path_problem(root: Path) -> str | None:
    """Say what keeps `dvc exp run --temp` and the queue from working in a folder.

    They give Git the folder's path as an address: `file://`, and the path as it is. Of
    that, Git decodes `%20` to a space.
    """
    problematic = sorted(set(re.findall("[#?]|[^ -~]|%[0-9A-Fa-f]{2}", str(root))))
    if not problematic:
        return None
    return (
        f"DVC's --temp and queue do not work in {root}, because of the "
        f"{' and '.join(problematic)} in its path"
    )
