"""Leftovers of a killed experiment in Git."""

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from toygpt.doctor.finding import Finding, Line, fixable
from toygpt.doctor.leftovers import work_in
from toygpt.pipeline.git import (
    SET_IDENTITY,
    git,
    git_or_nothing,
    identity_problem,
    path_problem,
)


def check_git(root: Path) -> Iterator[Line]:
    """Find the leftovers of a killed experiment in Git.

    `dvc exp run` stashes the user's edits, detaches HEAD and applies the edits again;
    it undoes this only when it ends regularly.
    """
    if not git_or_nothing(root, "rev-parse", "--verify", "--quiet", "HEAD"):
        yield Finding(
            "no Git repository with a commit in it: DVC's experiments need one",
            'git init && git add --all && git commit --message "toyGPT"',
        )
        return
    if problem := identity_problem(root):
        yield Finding(problem, SET_IDENTITY)
    if problem := path_problem(root):
        yield Finding(problem, f"mv {shlex.quote(str(root))} ~/toyGPT")
    git_folder = Path(git(root, "rev-parse", "--absolute-git-dir"))
    if (lock := git_folder / "index.lock").exists():
        yield Finding(
            f"Git is at work, or was killed: {lock} keeps every other Git away",
            f"rm {shlex.quote(str(lock))}",
        )
    if work := work_in(root):
        yield f"{work} is at work: its changes in Git are examined when it is done"
        return
    yield from _head(root, git_folder)
    yield from _references(root)
    yield from _stashes(root)
    if staged := git(root, "ls-files", "--cached", "--", ".dvc/tmp"):
        yield fixable(
            root,
            f"DVC's working files would be committed: {', '.join(staged.split())}",
            "git rm -r --cached --quiet .dvc/tmp",
        )


def _head(root: Path, git_folder: Path) -> Iterator[Line]:
    """Check whether HEAD is on a branch, and if not, whether the user meant it so."""
    if on := git_or_nothing(root, "symbolic-ref", "--quiet", "--short", "HEAD"):
        yield f"on branch {on}"
        return
    commit = git(root, "rev-parse", "--short", "HEAD")
    for name in ("rebase-merge", "rebase-apply", "BISECT_LOG"):
        if (git_folder / name).exists():
            yield f"on no branch, but at {commit}: a rebase or a bisection is under way"
            return
    branch = _branch_that_head_left(root)
    if branch is not None:
        # HEAD stays at the same commit: no file changes, not even in the index.
        yield fixable(
            root,
            f"HEAD is off its branch {branch}, at the same commit {commit}, after an "
            f"experiment that was killed, or a checkout",
            shlex.join(["git", "symbolic-ref", "HEAD", f"refs/heads/{branch}"]),
        )
        return
    all_references = ("refs/heads", "refs/remotes", "refs/tags")
    name_format = "--format=%(refname:short)"
    having = git(root, "for-each-ref", "--contains=HEAD", name_format, *all_references)
    if having:
        yield f"on no branch, but at {commit}, which {having.split()[0]} has"
    else:
        yield Finding(
            f"HEAD is on no branch, and no branch has its commit {commit}",
            f"git switch --create rescued-{commit}",
        )


def _branch_that_head_left(root: Path) -> str | None:
    """Return the branch whose tip HEAD is at; of several, the last one checked out."""
    # %(worktreepath): a branch cannot be checked out in two folders at once.
    tips = git(
        root,
        "for-each-ref",
        "--points-at=HEAD",
        "--format=%(refname:short)%09%(worktreepath)",
        "refs/heads",
    )
    branches = [
        name
        for name, _, folder in (line.partition("\t") for line in tips.splitlines())
        if not folder
    ]
    if len(branches) == 1:
        return branches[0]
    for entry in git(root, "reflog", "show", "--format=%gs", "HEAD").splitlines():
        left = re.fullmatch(r"checkout: moving from (\S+) to \S+", entry)
        if left and left[1] in branches:
            return left[1]
    return None


# DVC leaves these references after a regular end, too.
KEPT_BY_DVC = ("refs/exps/exec/EXEC_HEAD", "refs/exps/exec/EXEC_APPLY")


def _references(root: Path) -> Iterator[Line]:
    """Find the references of an experiment that DVC never ended."""
    listing = git(
        root,
        "for-each-ref",
        "--format=%(refname) %(objectname)",
        "refs/exps/exec",
        "refs/exps/temp",
        "refs/exps/stash",
    )
    references = dict(line.split() for line in listing.splitlines())
    left = {name: at for name, at in references.items() if name not in KEPT_BY_DVC}
    if not left:
        return
    problem = f"an experiment was killed: DVC left {', '.join(sorted(left))}"
    commands = []
    for commit in _stashes_among(root, left):
        if only_there := _edits(root, commit)[1]:
            commands.append(
                f"git stash store -m 'of a killed experiment' {commit[:12]}"
            )
            problem += (
                f"; it had another {' and '.join(only_there)} than there is now: the "
                f"fix puts it into `git stash`"
            )
    spaces = sorted({"/".join(name.split("/")[:3]) for name in left})
    commands.append(
        f"git for-each-ref --format='delete %(refname)' {' '.join(spaces)} "
        f"| git update-ref --stdin"
    )
    yield fixable(root, problem, " && ".join(commands))


def _stashes_among(root: Path, references: Mapping[str, str]) -> list[str]:
    """Return the stash commits, which hold the user's edits and the options -S."""
    commits = set(references.values())
    if "refs/exps/stash" in references:  # there may be more of them below the last
        commits |= set(
            git(root, "reflog", "show", "--format=%H", "refs/exps/stash").split()
        )
    return [
        commit
        for commit in sorted(commits)
        if git_or_nothing(root, "rev-parse", "--verify", "--quiet", f"{commit}^2")
    ]


def _stashes(root: Path) -> Iterator[Line]:
    """Find edits that DVC stashed and never applied again."""
    listing = git(root, "stash", "list", "--format=%gd %H %gs")
    for line in listing.splitlines():
        name, commit, message = line.split(" ", 2)
        if not message.startswith("WIP on ") or not _is_by_dvc(root, commit):
            continue
        same, different = _edits(root, commit)
        if same and not different:
            yield Finding(
                f"{name} has edits that an experiment stashed; your files have them",
                f"git stash drop {name}",
            )
        elif not git(root, "status", "--porcelain", "--untracked-files=no"):
            yield Finding(
                f"{name} has edits that an experiment stashed and never applied again",
                f"git stash pop {name}",
            )
        else:
            yield Finding(
                f"{name} has edits that an experiment stashed and never applied again: "
                f"{', '.join(different)}",
                f"git checkout --patch {name}",
            )


def _is_by_dvc(root: Path, stash: str) -> bool:
    """Return whether a stash was made by libgit2, which DVC uses, and not by Git.

    Git ends the message of a stash without a newline, libgit2 with one.
    """
    commit = subprocess.run(
        ["git", "cat-file", "commit", stash], cwd=root, capture_output=True, check=True
    )
    return commit.stdout.endswith(b"\n")


def _edits(root: Path, stash: str) -> tuple[list[str], list[str]]:
    """Return the files of a stash that are the same here, and the files that differ.

    A file with the stashed edit and later ones is in neither list.
    """
    names = ["diff", "--name-only", "-z"]
    edited = git(root, *names, f"{stash}^1", stash, "--", ":/", ":!.dvc/tmp")
    files = [name for name in edited.split("\0") if name]
    if not files:
        return [], []
    top = Path(git(root, "rev-parse", "--show-toplevel"))

    def unlike(commit: str) -> set[str]:
        return set(git(top, *names, commit, "--", *files).split("\0"))

    unlike_stash, unlike_base = unlike(stash), unlike(f"{stash}^1")
    same = [name for name in files if name not in unlike_stash]
    return same, [name for name in files if name in unlike_stash - unlike_base]
