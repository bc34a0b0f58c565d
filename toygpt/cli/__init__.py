"""The command line: `python . train`, `resume`, `generate`, `track`, `doctor`.

The same as `toygpt …` where it is installed, and as `python -m toygpt …`.
"""

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from toygpt.cli.dvc import project_root, run_dvc, run_experiment
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError, missing_package
from toygpt.pipeline.memory import keep_freed_memory

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

# The options that stand for keys of params.yaml.
OPTIONS = {
    "model": "model",
    "train.batch_size": "batch",
    "train.learning_rate": "lr",
    "train.weight_decay": "wd",
    "train.precision": "precision",
    "tracking.wandb": "wnb",
}


def main(arguments: Sequence[str] | None = None, *, program: str = "toygpt") -> int:
    """Run a command and return its exit code."""
    options = build_parser(program).parse_args(arguments)
    try:
        return int(options.command(options))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except ModuleNotFoundError as error:
        if (advice := missing_package(error)) is None:
            raise
        print(f"error: {advice}", file=sys.stderr)
        return FAILURE
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
    _add_resume(commands)
    _add_track(commands)
    _add_doctor(commands)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        allow_abbrev=False,
        help="train a model and evaluate it, as a DVC experiment",
        description=(
            "Run the pipeline as a DVC experiment: train a model, evaluate it, and let "
            "it write. What has not changed is not done again, and the run can be "
            "compared with any other (`dvc exp show`, `mlflow ui`). Options stand for "
            "keys of params.yaml and are written there."
        ),
    )
    _add_config(train)
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
    _add_precision_and_wandb(train)
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
    train.add_argument(
        "--fresh",
        action="store_true",
        help="start over, even if this very training was interrupted",
    )
    train.add_argument(
        "--no-evaluate",
        action="store_true",
        help="stop after training: no test metrics, no samples",
    )
    train.set_defaults(command=run_train)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=(
            "YAML or JSON file with any part of params.yaml; options given beside it "
            "win"
        ),
    )


def _add_precision_and_wandb(parser: argparse.ArgumentParser) -> None:
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


def _add_resume(commands: Any) -> None:
    resume = commands.add_parser(
        "resume",
        allow_abbrev=False,
        help="continue a training that was interrupted",
        description=(
            "Continue a training that was interrupted, with the parameters it had. To "
            "give the same command again does the same. Of what decides the weights "
            "only the precision may be changed on the way."
        ),
    )
    resume.add_argument(
        "training",
        nargs="?",
        metavar="TRAINING",
        help="its name, or the beginning of its id, if there are several",
    )
    _add_config(resume)
    _add_precision_and_wandb(resume)
    resume.set_defaults(command=run_resume)


def _add_track(commands: Any) -> None:
    track = commands.add_parser(
        "track",
        allow_abbrev=False,
        help="tell MLflow and W&B whatever they do not know yet",
        description=(
            "Tell MLflow and W&B whatever they missed of the trainings here, and of "
            "those that DVC restored from its cache or pulled: of the workspace, of "
            "all experiments, and of the revisions given."
        ),
    )
    track.add_argument(
        "revisions", nargs="*", metavar="REVISION", help="a commit, branch or tag"
    )
    track.add_argument(
        "--rebuild",
        action="store_true",
        help="look for every run in mlflow.db and wandb/, and make those missing anew",
    )
    track.set_defaults(command=run_track)


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        allow_abbrev=False,
        help="look at this machine and at the health of the project",
        description="Look at this machine and at the health of the project.",
    )
    doctor.add_argument(
        "--fix", action="store_true", help="mend what can be mended without any risk"
    )
    doctor.set_defaults(command=run_doctor)


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
    """Run `dvc exp run` with the options as overrides."""
    root = project_root()
    overrides = overrides_of(options)
    settings = {"TOYGPT_FRESH": "1"} if options.fresh else {}
    return run_experiment(
        root,
        overrides,
        targets=["train"] if options.no_evaluate else [],
        name=options.name,
        settings=settings,
    )


def overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the options change, by the paths in params.yaml.

    Raises:
        InputError: The file cannot be read, or an assignment is none.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from toygpt.pipeline.params import flatten, read_yaml

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
    # Overrides are put beside what is there: an empty section changes nothing.
    return {key: value for key, value in overrides.items() if value != {}}


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
    keep_freed_memory()  # large pages: a tenth more tokens per second
    # torch takes seconds to import: most mistakes are told before.
    from toygpt.data.tokenizer import decode_as_it_comes
    from toygpt.generation.engine import generate
    from toygpt.generation.packed import pack
    from toygpt.generation.sampling import Sampling
    from toygpt.model.device import device_for
    from toygpt.model.loading import load_model_and_tokenizer

    chosen = {
        field.name: value
        for field in fields(Sampling)
        if (value := getattr(options, field.name)) is not None
    }
    try:
        sampling = Sampling(**chosen) if chosen else None
    except ValueError as error:
        raise InputError(str(error)) from None
    device = device_for(options.accelerator)
    with _model_directory(options.model) as directory:
        model, tokenizer, end_of_text_id = load_model_and_tokenizer(directory, device)
    if options.prompt is None:
        prompt_ids = [end_of_text_id]  # in training a new text begins after it
    else:
        prompt_ids = tokenizer.encode(options.prompt, add_special_tokens=False).ids
        print(options.prompt, end="", flush=True)
    new_ids = generate(
        pack(model),
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
        from toygpt.tracking.mlflow import model_from_mlflow

        with model_from_mlflow(name, root=paths.main_root()) as directory:
            yield directory
    elif name is not None:
        yield Path(name)
    else:
        yield paths.main_root() / paths.MODEL


def run_resume(options: argparse.Namespace) -> int:
    """Go on with a training that was interrupted, as it was begun."""
    from toygpt.resuming.choose import check_changes, choose, interrupted_trainings

    root = project_root()
    chosen = choose(interrupted_trainings(root), options.training)
    # Only now, since it takes a while to import.
    from toygpt.pipeline.params import flatten, read_yaml

    description, changes = chosen.description, overrides_of(options)
    check_changes(description, changes)
    wanted = dict(flatten(description.params)) | changes
    present = dict(flatten(read_yaml(root / paths.PARAMS)))
    overrides = {
        key: value
        for key, value in wanted.items()
        if key not in present or present[key] != value
    }
    settings = {"TOYGPT_RESUME": chosen.training.fingerprint}
    print(f"going on with {chosen}", flush=True)
    if description.experiment is None and not overrides:
        code = run_dvc(root, "repro", settings=settings)
    else:
        code = run_experiment(
            root,
            overrides,
            name=description.experiment,
            is_temporary=description.is_temporary,
            settings=settings,
        )
    if code == 0 and chosen.training.describe() is not None:
        print(
            f"DVC had the results of this training already: nothing was left to do. "
            f"{chosen.training.folder} is of no use any more.",
            file=sys.stderr,
        )
    return code


def run_track(options: argparse.Namespace) -> int:
    """Tell the trackers whatever they do not know, and say what it was."""
    from toygpt.pipeline.params import load_params
    from toygpt.tracking.backfill import track

    root = project_root()
    tracking = load_params(root / paths.PARAMS).tracking
    outcome = track(
        root, tracking, revisions=options.revisions, is_rebuilding=options.rebuild
    )
    for name in outcome.synced:
        print(f"synced: {name}")
    for tracker, names in outcome.unsynced.items():
        print(f"error: not synced with {tracker}: {', '.join(names)}", file=sys.stderr)
    if outcome.unsynced:
        return FAILURE
    if not outcome.synced:
        print("everything is synced")
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    """Print one page about the machine and the project."""
    from toygpt.doctor.page import doctor

    return doctor(project_root(), fix=options.fix)
