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
    """Return the output of a Git command.

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
    """Return the output of a Git command; an empty text if Git refuses or is absent."""
    with suppress(OSError):
        return git(folder, *arguments)
    return ""


def identity_problem(root: Path) -> str | None:
    """Return whether the user's name or email is missing in Git, in words, or None.

    DVC stashes the edits of tracked files when an experiment begins; this commit needs
    both. For the commit of the experiment itself DVC guesses them.
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
    """Return why `dvc exp run --temp` and the queue cannot work in a folder, or None.

    They give Git the folder's path as a URL: `file://` and the path, not encoded. Git
    decodes `%20` in it to a space.
    """
    problematic = sorted(set(re.findall("[#?]|[^ -~]|%[0-9A-Fa-f]{2}", str(root))))
    if not problematic:
        return None
    return (
        f"DVC's --temp and queue do not work in {root}, because of the "
        f"{' and '.join(problematic)} in its path"
    )
