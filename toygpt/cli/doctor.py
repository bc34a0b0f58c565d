"""`python . doctor`: examine this machine and the health of the project."""

import argparse
from typing import Any

from toygpt.cli.dvc import project_root


def add_parser(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "doctor",
        allow_abbrev=False,
        help="examine this machine and the health of the project",
        description="Examine this machine and the health of the project.",
    )
    parser.add_argument(
        "--fix", action="store_true", help="fix what can be fixed without any risk"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print one page about the machine and the project."""
    from toygpt.doctor.page import doctor

    return doctor(project_root(), fix=options.fix)
