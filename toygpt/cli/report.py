"""`python . report`: write a page on what an experiment changed, for a reviewer."""

import argparse
from pathlib import Path
from typing import Any

from toygpt.cli.dvc import project_root
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.git import git_or_nothing


def add_parser(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "report",
        allow_abbrev=False,
        help="write one page on what an experiment changed and whether it is better",
        description=(
            "Write a page of Markdown for a reviewer: whether the model is better than "
            "the baseline's, by how much, beyond noise or not, and what changed. It "
            "shows numbers, curves and samples that exist; without --paired nothing "
            "runs."
        ),
    )
    parser.add_argument(
        "revision",
        nargs="?",
        metavar="REVISION",
        help="experiment, branch, tag or commit (default: the workspace)",
    )
    parser.add_argument(
        "--against",
        default="HEAD",
        metavar="REVISION",
        help="the baseline (default: %(default)s, the last commit)",
    )
    parser.add_argument(
        "--paired",
        action="store_true",
        help=(
            "evaluate both models again, document by document: this says how much of "
            "their difference is noise"
        ),
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=(
            "write the page to this file, and the loss curves as a picture beside it "
            "(default: print the page, without the picture)"
        ),
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the page, or write it and its picture."""
    root = project_root()
    if options.out and (options.out.is_dir() or options.out.suffix == ".png"):
        raise InputError(
            f"--out takes the page's file, such as report.md: {options.out}"
        )
    picture = options.out and options.out.with_suffix(".png")
    if not git_or_nothing(root, "rev-parse", "--git-dir"):
        raise InputError(f"{root} is not in a Git repository: there is no baseline")
    # Only now: DVC and matplotlib take a second to import.
    from toygpt.pipeline.files import write_text
    from toygpt.pipeline.revision import Revision
    from toygpt.reporting.comparison import compare
    from toygpt.reporting.curves import draw_curves
    from toygpt.reporting.page import page_of

    before, now = Revision(root, options.against), Revision(root, options.revision)
    comparison = compare(before, now, is_paired=options.paired)
    curves = draw_curves(picture, before, now) if picture else None
    page = page_of(comparison, before, now, curves=curves)
    if options.out:
        write_text(options.out, page)
        print(f"written: {options.out}")
    else:
        print(page, end="")
    return 0
