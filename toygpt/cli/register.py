"""`python . register`: make a run's model a version in MLflow's registry."""

import argparse
import sys
from typing import Any

from toygpt.cli.dvc import project_root
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError


def add_parser(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "register",
        allow_abbrev=False,
        help="make a run's model a version in MLflow's registry",
        description=(
            "Make the model of a run a version of a registered model in MLflow. With "
            "--if-better it ends with 1 if the version may not have the alias."
        ),
    )
    parser.add_argument(
        "name_of_run",
        nargs="?",
        metavar="RUN",
        help=f"a run's name or id (default: the run of {paths.MODEL})",
    )
    parser.add_argument(
        "--name",
        default="toygpt",
        metavar="NAME",
        help="of the registered model (default: %(default)s)",
    )
    parser.add_argument(
        "--alias", metavar="ALIAS", help="give the version this alias, such as champion"
    )
    parser.add_argument(
        "--if-better",
        metavar="METRIC",
        help=(
            "give the alias only to a model that beats the one that has it, on the "
            "same test split: lower is better, or higher for an accuracy"
        ),
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Register the model, and print its version."""
    from toygpt.pipeline.params_file import load_params
    from toygpt.tracking.mlflow.client import mlflow_client
    from toygpt.tracking.mlflow.destination import with_mlflow_to_read
    from toygpt.tracking.mlflow.experiments import experiment_name
    from toygpt.tracking.mlflow.registry import (
        NotBetterError,
        register,
        run_of_name,
        run_of_weights,
    )
    from toygpt.tracking.results import Results

    if options.if_better and not options.alias:
        raise InputError("--if-better METRIC needs --alias ALIAS, such as champion")
    root = project_root()
    tracking = with_mlflow_to_read(load_params(root / paths.PARAMS).tracking)
    project = experiment_name(tracking.project)
    with mlflow_client(tracking, root) as client:
        if options.name_of_run:
            found = run_of_name(client, project, options.name_of_run)
        else:
            try:
                digest = Results(root).weights_sha256
            except FileNotFoundError as error:
                raise InputError(f"there is no {error.filename}: name a run") from None
            found = run_of_weights(client, project, digest)
        try:
            lines = register(
                client,
                found,
                options.name,
                alias=options.alias,
                metric=options.if_better,
            )
        except NotBetterError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print("\n".join(lines))
    return 0
