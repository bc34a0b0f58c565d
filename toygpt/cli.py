"""The command line: `python . train`, `python . generate`, `python . resume`.

The same as `toygpt …` where it is installed, and as `python -m toygpt …`.
"""

import argparse
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from toygpt import paths
from toygpt.errors import InputError

# What a mistake in the command ends with, here as in argparse.
USAGE_ERROR = 2
FAILURE = 1
INTERRUPTED = 130

# The seed's words for what W&B is to do, beside those of `tracking.wandb`.
WANDB_CHOICES = {
    "offline": "offline",
    "online": "online",
    "disabled": "disabled",
    "true": "online",
    "false": "disabled",
}


def main(arguments: Sequence[str] | None = None, *, program: str = "toygpt") -> int:
    """Run a command and return its exit code."""
    options = build_parser(program).parse_args(arguments)
    try:
        return int(options.command(options))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILURE


def build_parser(program: str) -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=program, description="Train a GPT, and let it write.", allow_abbrev=False
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_generate(commands)
    resume = commands.add_parser(
        "resume",
        allow_abbrev=False,
        help="continue a training that was interrupted (not yet possible)",
        description="Continue a training that was interrupted: not yet possible.",
    )
    resume.set_defaults(command=run_resume)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        allow_abbrev=False,
        help="run the pipeline up to a trained model, as a DVC experiment",
        description=(
            "Run the pipeline up to a trained model, as a DVC experiment: what has not "
            "changed is not done again, and the run can be compared with any other "
            "(dvc exp show, mlflow ui). Options stand for keys of params.yaml and are "
            "written there."
        ),
    )
    train.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=(
            "YAML or JSON file with any part of params.yaml; options given beside it "
            "win"
        ),
    )
    train.add_argument(
        "--model",
        metavar="NAME",
        help="size of the network, one of `models` (model)",
    )
    train.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="sequences per optimizer step (train.batch_size)",
    )
    train.add_argument(
        "--lr",
        type=float,
        metavar="RATE",
        help=(
            "highest learning rate of what AdamW trains (train.learning_rate); Muon's "
            "own is train.muon_learning_rate"
        ),
    )
    train.add_argument(
        "--wd",
        type=float,
        metavar="DECAY",
        help="weight decay of the blocks' matrices (train.weight_decay)",
    )
    train.add_argument(
        "--precision",
        metavar="NAME",
        help="auto, 32-true or bf16-mixed (train.precision)",
    )
    train.add_argument(
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
    train.add_argument(
        "-S",
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other key of params.yaml, e.g. -S train.max_tokens=500_000",
    )
    train.add_argument(
        "-n", "--name", metavar="NAME", help="name of the experiment and of its runs"
    )
    train.set_defaults(command=run_train)


def _add_generate(commands: Any) -> None:
    generate = commands.add_parser(
        "generate",
        allow_abbrev=False,
        help="let a model continue a text",
        description=(
            "Let a model continue a text. It takes the most likely token each time, "
            "unless one of --temperature, --top-k, --top-p and --seed is given: then "
            "it samples. Beyond its block size it sees a sliding window, "
            "half of the block or more."
        ),
    )
    generate.add_argument(
        "--prompt",
        metavar="TEXT",
        help="text to continue; without it the model begins one of its own",
    )
    generate.add_argument(
        "--model",
        metavar="MODEL",
        help=(
            f"directory of a model (default: {paths.MODEL}), or what MLflow keeps: "
            f"runs:/RUN_ID/model, models:/NAME/VERSION"
        ),
    )
    generate.add_argument(
        "--max-new-tokens",
        type=int,
        default=200,
        metavar="N",
        help="stop after so many tokens (default: %(default)s)",
    )
    generate.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="below 1 favours likely tokens, above 1 evens them out (default: 1)",
    )
    generate.add_argument(
        "--top-k",
        type=int,
        metavar="K",
        help="choose among the K most likely tokens (default: all)",
    )
    generate.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="choose among the likely tokens that together reach P (default: all)",
    )
    generate.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of the random choices; the same one gives the same text (default: 0)",
    )
    generate.add_argument(
        "--accelerator",
        choices=["auto", "cpu", "gpu", "cuda", "mps"],
        default="auto",
        help="where to compute (default: %(default)s)",
    )
    generate.set_defaults(command=run_generate)


def run_train(options: argparse.Namespace) -> int:
    """Run `dvc exp run train` with the options as overrides."""
    root = paths.main_root()
    if not (root / paths.PARAMS).is_file() or not (root / "dvc.yaml").is_file():
        raise InputError(
            f"{root} is no toyGPT project: run this in a clone of it, where "
            f"{paths.PARAMS} and dvc.yaml are"
        )
    from toygpt.params import flatten, load_params, read_yaml

    known = dict(flatten(read_yaml(root / paths.PARAMS)))
    overrides = overrides_of(options)
    # All of it is checked before DVC writes anything.
    load_params(root / paths.PARAMS, overrides)
    command = [sys.executable, "-m", "dvc", "exp", "run", "train"]
    if options.name is not None:
        command += ["--name", options.name]
    for key, value in overrides.items():
        command += ["--set-param", to_hydra(key, value, is_new=key not in known)]
    # The stages run as `python -m …`: it shall be this Python.
    search_path = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
    process = subprocess.Popen(
        command, cwd=root, env={**os.environ, "PATH": search_path}
    )
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            pass  # DVC was interrupted as well, and ends in its own way


def overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the options of `train` change, by the paths in params.yaml.

    Raises:
        InputError: The file cannot be read, or an assignment is none.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from toygpt.params import flatten, read_yaml

    overrides: dict[str, Any] = {}
    if options.config is not None:
        overrides |= flatten(read_yaml(options.config))
    for key, value in (
        ("model", options.model),
        ("train.batch_size", options.batch),
        ("train.learning_rate", options.lr),
        ("train.weight_decay", options.wd),
        ("train.precision", options.precision),
        ("tracking.wandb", WANDB_CHOICES.get(options.wnb)),
    ):
        if value is not None:
            overrides[key] = value
    for assignment in options.set:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise InputError(f"-S takes KEY=VALUE, got {assignment!r}")
        try:
            overrides |= flatten({key: YAML(typ="safe").load(value)})
        except (YAMLError, ValueError) as error:  # ValueError: no such date
            raise InputError(f"-S {assignment}: {error}") from None
    # Overrides are put beside what is there: an empty section changes nothing.
    return {key: value for key, value in overrides.items() if value != {}}


def to_hydra(key: str, value: Any, *, is_new: bool = False) -> str:
    """Write an override in the grammar that `dvc exp run --set-param` reads.

    See https://hydra.cc/docs/advanced/override_grammar/basic/.

    Raises:
        InputError: DVC would take a part of it for something else.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.-]*", key, re.ASCII):
        raise InputError(f"DVC takes no key like {key!r}: write it into {paths.PARAMS}")
    if "${" in str(value) or value == "???":
        raise InputError(f"{key}: DVC would look up '${{' or '???', got {value!r}")
    return f"{'+' if is_new else ''}{key}={_hydra_value(value)}"


def _hydra_value(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case list():
            return f"[{','.join(map(_hydra_value, value))}]"
        case Mapping():
            items = (f"{key}:{_hydra_value(item)}" for key, item in value.items())
            return f"{{{','.join(items)}}}"
        case _:
            # Backslashes count only where they stand before a quote.
            text = re.sub(r"(\\*)'", r"\1\1\\'", str(value))
            text = re.sub(r"(\\+)\Z", r"\1\1", text)
            return f"'{text}'"


def run_generate(options: argparse.Namespace) -> int:
    """Print a text as the model writes it."""
    if options.prompt == "":
        raise InputError("--prompt is empty: there is nothing to continue")
    if options.prompt is not None and not _is_text(options.prompt):
        raise InputError(f"--prompt is no text in UTF-8: {options.prompt!r}")
    if options.max_new_tokens < 1:
        raise InputError(f"--max-new-tokens must be positive: {options.max_new_tokens}")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not know UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    # torch takes seconds to import: most mistakes are told before.
    from toygpt.data.tokenizer import decode_as_it_comes, load_tokenizer
    from toygpt.model.device import device_for
    from toygpt.model.directory import load_end_of_text_id, load_model
    from toygpt.model.generation import Sampling, generate

    chosen = {
        field.name: value
        for field in fields(Sampling)
        if (value := getattr(options, field.name)) is not None
    }
    try:
        sampling = Sampling(**chosen) if chosen else None
    except ValueError as error:
        raise InputError(str(error)) from None
    with _model_directory(options.model) as directory:
        model = load_model(directory).to(device_for(options.accelerator))
        tokenizer = load_tokenizer(directory)
        end_of_text_id = load_end_of_text_id(directory)
    if options.prompt is None:
        prompt_ids = [end_of_text_id]  # in training a new text begins after it
    else:
        prompt_ids = tokenizer.encode(options.prompt, add_special_tokens=False).ids
        print(options.prompt, end="", flush=True)
    new_ids = generate(
        model,
        prompt_ids,
        max_new_tokens=options.max_new_tokens,
        end_of_text_id=end_of_text_id,
        sampling=sampling,
    )
    for text in decode_as_it_comes(tokenizer, new_ids):
        print(text, end="", flush=True)
    print(flush=True)
    return 0


def _is_text(argument: str) -> bool:
    """Say whether an argument came as UTF-8; what did not, Python marks."""
    return not any("\udc80" <= char <= "\udcff" for char in argument)


@contextmanager
def _model_directory(name: str | None) -> Iterator[Path]:
    """Yield the directory of the model that `--model` names."""
    if name is not None and name.startswith(("runs:/", "models:/")):
        from toygpt.training.tracking import model_from_mlflow

        with model_from_mlflow(name, root=paths.main_root()) as directory:
            yield directory
    elif name is not None:
        yield Path(name)
    else:
        yield paths.main_root() / paths.MODEL


def run_resume(options: argparse.Namespace) -> int:
    """Say that it cannot be done yet."""
    raise InputError(
        "resuming is not possible yet: a training that was interrupted starts again "
        "from its first step (python . train)"
    )
