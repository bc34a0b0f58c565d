"""The options that several commands share, and the keys of params.yaml they change."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError

# `--wnb MODE`: the first toyGPT's words, and those of `tracking.wandb`.
WANDB_CHOICES = {
    "offline": "offline",
    "online": "online",
    "disabled": "disabled",
    "true": "online",
    "false": "disabled",
}

# Each key of params.yaml that has an option of its own.
OPTIONS = {
    "model": "model",
    "train.batch_size": "batch",
    "train.learning_rate": "lr",
    "train.weight_decay": "wd",
    "train.precision": "precision",
    "tracking.wandb": "wnb",
}


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add `--config` to a command's parser."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=(
            "YAML or JSON file with any part of params.yaml; options given beside it "
            "win"
        ),
    )


def add_precision_and_wandb(parser: argparse.ArgumentParser) -> None:
    """Add `--precision` and `--wnb` to a command's parser."""
    parser.add_argument(
        "--precision",
        metavar="NAME",
        help="auto, 32-true or bf16-mixed (train.precision)",
    )
    parser.add_argument(
        "--wnb",
        nargs="?",
        const="online",
        choices=WANDB_CHOICES,
        metavar="MODE",
        help=(
            "Weights & Biases: offline, online (true) or disabled (false); without a "
            "MODE, online (tracking.wandb)"
        ),
    )


def overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the values that the options override, by their paths in params.yaml.

    Raises:
        InputError: The file cannot be read, or `-S` has no KEY=VALUE.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from toygpt.pipeline.params import flatten
    from toygpt.pipeline.params_file import read_yaml

    overrides: dict[str, Any] = {}
    if options.config is not None:
        overrides |= flatten(read_yaml(options.config))
    for key, option in OPTIONS.items():
        if (value := getattr(options, option, None)) is not None:
            overrides[key] = WANDB_CHOICES[value] if option == "wnb" else value
    for assignment in getattr(options, "set", []):
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise InputError(f"-S takes KEY=VALUE, got {assignment!r}")
        try:
            overrides |= flatten({key: YAML(typ="safe").load(value)})
        except (YAMLError, ValueError) as error:  # ValueError: no such date
            raise InputError(f"-S {assignment}: {error}") from None
    # DVC merges an override into the mapping there: an empty one changes nothing.
    return {key: value for key, value in overrides.items() if value != {}}


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add `--model` to a command's parser, of a trained model: `model_directory`."""
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help=(
            f"directory of a model (default: {paths.MODEL}), or a model in MLflow: "
            f"runs:/RUN_ID/model, models:/NAME/VERSION, models:/NAME@ALIAS"
        ),
    )


@contextmanager
def model_directory(name: str | None) -> Iterator[Path]:
    """Yield the directory of the model that `--model` names."""
    if name is not None and name.startswith(("runs:/", "models:/")):
        from toygpt.pipeline.params_file import load_params
        from toygpt.tracking.mlflow.client import model_from_mlflow
        from toygpt.tracking.mlflow.destination import with_mlflow_to_read

        root = paths.main_root()
        tracking = with_mlflow_to_read(load_params(root / paths.PARAMS).tracking)
        with model_from_mlflow(name, tracking=tracking, root=root) as directory:
            yield directory
    elif name is not None:
        yield Path(name)
    else:
        yield paths.main_root() / paths.MODEL


def check_prompt(options: argparse.Namespace, name: str) -> None:
    """Raise an error if there is nothing to continue, or by no tokens.

    Raises:
        InputError: Of the options `prompt`, which the user knows by `name`, and
            `max_new_tokens`.
    """
    if options.prompt == "":
        raise InputError(f"{name} is empty: there is nothing to continue")
    # Python marks the bytes of an argument that are not UTF-8.
    if options.prompt and any("\udc80" <= char <= "\udcff" for char in options.prompt):
        raise InputError(f"{name} is not text in UTF-8: {options.prompt!r}")
    if options.max_new_tokens < 1:
        raise InputError(f"--max-new-tokens must be positive: {options.max_new_tokens}")
