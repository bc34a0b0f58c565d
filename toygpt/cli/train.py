"""`python . train`: run the pipeline as a DVC experiment."""

import argparse
from typing import Any

from toygpt.cli.dvc import project_root, run_experiment
from toygpt.cli.options import add_config, add_precision_and_wandb, overrides_of


def add_parser(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "train",
        allow_abbrev=False,
        help="train a model and evaluate it, as a DVC experiment",
        description=(
            "Run the pipeline as a DVC experiment: train a model, evaluate it, and let "
            "it write. A stage whose inputs have not changed does not run again, and "
            "the run can be compared with any other (`dvc exp show`, `mlflow ui`). "
            "Options stand for keys of params.yaml and are written there."
        ),
    )
    add_config(parser)
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="size of the network, one of `models` (model)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="sequences per optimizer step (train.batch_size)",
    )
    parser.add_argument(
        "--lr",
        type=float,
        metavar="RATE",
        help=(
            "AdamW's highest learning rate (train.learning_rate); Muon's is "
            "train.muon_learning_rate"
        ),
    )
    parser.add_argument(
        "--wd",
        type=float,
        metavar="DECAY",
        help="weight decay of the blocks' matrices (train.weight_decay)",
    )
    add_precision_and_wandb(parser)
    parser.add_argument(
        "-S",
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other key of params.yaml, e.g. -S train.max_tokens=500_000",
    )
    parser.add_argument(
        "-n", "--name", metavar="NAME", help="name of the experiment and of its runs"
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start over, even if this very training was interrupted",
    )
    parser.add_argument(
        "--no-evaluate",
        action="store_true",
        help="stop after training: no test metrics, no samples",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run `dvc exp run` with the options as overrides."""
    return run_experiment(
        project_root(),
        overrides_of(options),
        targets=["train"] if options.no_evaluate else [],
        name=options.name,
        settings={"TOYGPT_FRESH": "1"} if options.fresh else {},
    )
