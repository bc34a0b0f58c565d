"""`python . track`: bring MLflow and W&B up to date."""

import argparse
import sys
from typing import Any

from toygpt.cli.dvc import project_root
from toygpt.pipeline import paths


def add_parser(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "track",
        allow_abbrev=False,
        help="log to MLflow and W&B all that they lack",
        description=(
            "Log to MLflow and W&B all that they lack of the trainings here, and of "
            "trainings that DVC restored from its cache or pulled: of the workspace, "
            "of all experiments, and of the revisions given."
        ),
    )
    parser.add_argument(
        "revisions", nargs="*", metavar="REVISION", help="a commit, branch or tag"
    )
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="look for every run in MLflow and wandb/, and log again those missing",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Sync every run with the trackers, and print which ones were not synced before."""
    from toygpt.pipeline.params_file import load_params
    from toygpt.tracking.backfill import track
    from toygpt.tracking.settings import with_environment

    root = project_root()
    tracking = with_environment(load_params(root / paths.PARAMS).tracking)
    outcome = track(
        root, tracking, revisions=options.revisions, is_rebuilding=options.rebuild
    )
    for name in outcome.synced:
        print(f"synced: {name}")
    for tracker, names in outcome.unsynced.items():
        print(f"error: not synced with {tracker}: {', '.join(names)}", file=sys.stderr)
    if not outcome.synced and not outcome.unsynced:
        print("everything is synced")
    return 1 if outcome.unsynced else 0
