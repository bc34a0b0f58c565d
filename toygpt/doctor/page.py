"""One page on this machine and this project, and how to mend what is not well.

Each check is a generator: of a sentence for what is well, of a `Finding` for what is
not. What is mended of itself (`--fix`) can lose nobody's work: references, locks and
folders of processes that are gone, and what the trackers were not told. A training, an
artifact or an edit is the user's; for these there is a command to paste.

While DVC or a stage is at work nobody can say what it will leave behind. Then Git,
DVC's own files and the artifacts are looked at another time.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from toygpt.doctor.artifacts import check_artifacts
from toygpt.doctor.finding import Check, Finding, Line, number_of
from toygpt.doctor.git import check_git
from toygpt.doctor.leftovers import check_dvc
from toygpt.doctor.machine import check_machine, check_params
from toygpt.doctor.trackers import check_trackers
from toygpt.doctor.trainings import check_trainings
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError, first_line

WIDTH = 96


def doctor(root: Path, *, fix: bool) -> int:
    """Print the page, and return its exit code: 0 if all is well.

    Args:
        root: The project's folder.
        fix: Whether to mend what can be mended without any loss.

    Raises:
        InputError: There is no project.
    """
    root = root.resolve()
    if not (root / "dvc.yaml").is_file():
        raise InputError(
            f"{root} is no toyGPT project: run this in a clone of it, where "
            f"{paths.PARAMS} and dvc.yaml are"
        )
    print(f"toyGPT in {root}")
    remaining: list[Finding] = []
    lines: list[Line]
    for title, check, where_to_look in CHECKS:
        lines = examine(check, root, where_to_look)
        if fix and (mended := [line for line in lines if is_mended(line)]):
            lines = [f"mended: {_problem(line)}" for line in mended]
            lines += examine(check, root, where_to_look)
        print_section(title, lines, root)
        remaining += [line for line in lines if isinstance(line, Finding)]
    print(f"\n{verdict(remaining)}")
    return 1 if remaining else 0


def examine(check: Check, root: Path, where_to_look: str) -> list[Line]:
    """Return what a check finds; that it could not be done is a finding as well."""
    lines: list[Line] = []
    try:
        lines.extend(check(root))
    except Exception as error:  # a doctor who faints helps nobody
        problem = f"could not be examined: {type(error).__name__}: {first_line(error)}"
        lines.append(Finding(problem, where_to_look))
    return lines


def is_mended(line: Line) -> bool:
    """Mend a finding if that is safe, and say whether it was."""
    if isinstance(line, str) or line.mend is None:
        return False
    try:
        line.mend()
    except Exception as error:  # it stays a finding
        print(f"not mended: {line.problem}: {first_line(error)}", file=sys.stderr)
        return False
    return True


def _problem(line: Line) -> str:
    return line if isinstance(line, str) else line.problem


def print_section(title: str, lines: Iterable[Line], root: Path) -> None:
    """Print what a check found, each with its command below it."""
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
            print(f"        {line.remedy.replace(f'{root}{os.sep}', '')}")


def verdict(remaining: Sequence[Finding]) -> str:
    """Sum the page up in one line."""
    if not remaining:
        return "All is well."
    count = number_of(len(remaining), "finding")
    num_safe = sum(finding.mend is not None for finding in remaining)
    if not num_safe:
        return f"{count}; each has its command below it."
    return f"{count}; `python . doctor --fix` mends {num_safe} of them."


# What is examined, in this order, and where to look if that is not possible.
CHECKS: tuple[tuple[str, Check, str], ...] = (
    ("machine", check_machine, "uv sync"),
    ("parameters", check_params, f"git diff {paths.PARAMS}"),
    ("git", check_git, "git status"),
    ("dvc", check_dvc, "dvc doctor"),
    ("trainings", check_trainings, "ls -l .toygpt/resume"),
    ("trackers", check_trackers, "python . track"),
    ("artifacts", check_artifacts, "dvc status"),
)
