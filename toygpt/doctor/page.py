"""One page on the health of this machine and this project, with commands to fix it.

Each check is a generator: it yields a sentence where all is well, and a `Finding` where
it is not. `--fix` does only what can lose no work: it removes references, locks and
folders of processes that are gone, and syncs the trackers. Trainings, artifacts and
edits are the user's: for these the page has a command to paste.

While DVC or a stage runs, Git, DVC's own files and the artifacts are not examined: what
looks like a leftover may be in use.
"""

import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from toygpt.doctor.artifacts import check_artifacts
from toygpt.doctor.cluster import check_cluster
from toygpt.doctor.finding import Check, Finding, Line, number_of
from toygpt.doctor.git import check_git
from toygpt.doctor.leftovers import check_dvc
from toygpt.doctor.machine import check_machine, check_params
from toygpt.doctor.trackers import check_trackers
from toygpt.doctor.trainings import check_trainings
from toygpt.pipeline import paths
from toygpt.pipeline.errors import first_line

WIDTH = 96


def doctor(root: Path, *, fix: bool) -> int:
    """Print the page, and return its exit code: 0 if all is well.

    Args:
        root: The project's folder.
        fix: Whether to fix what can be fixed without any loss.
    """
    root = root.resolve()
    print(f"toyGPT in {root}")
    remaining: list[Finding] = []
    lines: list[Line]
    for title, check, where_to_look in CHECKS:
        lines = examine(check, root, where_to_look)
        if fix and (fixed := [line for line in lines if is_fixed(line)]):
            lines = [f"fixed: {_problem(line)}" for line in fixed]
            lines += examine(check, root, where_to_look)
        print_section(title, lines, root)
        remaining += [line for line in lines if isinstance(line, Finding)]
    print(f"\n{verdict(remaining)}")
    return 1 if remaining else 0


def examine(check: Check, root: Path, where_to_look: str) -> list[Line]:
    """Return the lines of a check; its failure is a finding as well."""
    lines: list[Line] = []
    try:
        lines.extend(check(root))
    except Exception as error:  # a doctor who faints helps no patient
        problem = f"could not be examined: {type(error).__name__}: {first_line(error)}"
        lines.append(Finding(problem, where_to_look))
    return lines


def is_fixed(line: Line) -> bool:
    """Fix a finding if that is safe, and return whether it is fixed."""
    if isinstance(line, str) or line.fix is None:
        return False
    try:
        line.fix()
    except Exception as error:  # it stays a finding
        print(f"not fixed: {line.problem}: {first_line(error)}", file=sys.stderr)
        return False
    return True


def _problem(line: Line) -> str:
    return line if isinstance(line, str) else line.problem


def print_section(title: str, lines: Iterable[Line], root: Path) -> None:
    """Print the lines of a check, each finding with its command below it."""
    print(f"\n{title}")
    for line in lines:
        mark = "!!" if isinstance(line, Finding) else "ok"
        text = _problem(line).replace(f"{root}{os.sep}", "")
        for number, part in enumerate(text.splitlines()):
            print(
                textwrap.fill(
                    part.strip(),
                    WIDTH,
                    initial_indent=" " * 6 if number else f"  {mark}  ",
                    subsequent_indent=" " * 6,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )
        if isinstance(line, Finding):
            print(f"        {line.command.replace(f'{root}{os.sep}', '')}")


def verdict(remaining: Sequence[Finding]) -> str:
    """Return the page in one line."""
    if not remaining:
        return "All is well."
    count = number_of(len(remaining), "finding")
    num_safe = sum(finding.fix is not None for finding in remaining)
    if not num_safe:
        return f"{count}; each has its command below it."
    return f"{count}; `python . doctor --fix` fixes {num_safe} of them."


# The checks in their order, and the command to look further where a check fails.
CHECKS: tuple[tuple[str, Check, str], ...] = (
    ("machine", check_machine, "uv sync"),
    ("cluster", check_cluster, "df ."),
    ("parameters", check_params, f"git diff {paths.PARAMS}"),
    ("git", check_git, "git status"),
    ("dvc", check_dvc, "dvc doctor"),
    ("trainings", check_trainings, "ls -l .toygpt/resume"),
    ("trackers", check_trackers, "python . track"),
    ("artifacts", check_artifacts, "dvc status"),
)
