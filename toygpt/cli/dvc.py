"""Run DVC: `dvc repro`, or `dvc exp run` with overrides of params.yaml."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.git import (
    SET_IDENTITY,
    git_or_nothing,
    identity_problem,
    path_problem,
)


def project_root() -> Path:
    """Return the folder of the project that the user is in.

    Raises:
        InputError: The user is in no project.
    """
    root = paths.main_root()
    if not (root / paths.PARAMS).is_file() or not (root / "dvc.yaml").is_file():
        raise InputError(
            f"{root} is not a toyGPT project: run this in a clone of it, where "
            f"{paths.PARAMS} and dvc.yaml are"
        )
    return root


def run_experiment(
    root: Path,
    overrides: Mapping[str, Any],
    *,
    targets: Sequence[str] = (),
    name: str | None = None,
    is_temporary: bool = False,
    settings: Mapping[str, str],
) -> int:
    """Run `dvc exp run`, and return its exit code.

    Args:
        root: The project's folder.
        overrides: The new values for params.yaml, each under its path.
        targets: The stages to run, with those before them; without any, all.
        name: The experiment's name; None lets DVC choose one.
        is_temporary: Whether it runs in a folder of its own.
        settings: Environment variables for the stages.

    Raises:
        InputError: The parameters would not be valid, or DVC would refuse to start.
    """
    from toygpt.pipeline.params import flatten
    from toygpt.pipeline.params_file import load_params, read_yaml
    from toygpt.tracking.settings import with_environment

    # All parameters, and W&B's variables, are checked before DVC writes anything.
    params = load_params(root / paths.PARAMS, overrides)
    with_environment(params.tracking)
    overrides = {**overrides, **params.expanded_folders()}
    known = dict(flatten(read_yaml(root / paths.PARAMS)))
    arguments = ["exp", "run", *targets]
    if name is not None:
        arguments += ["--name", name]
    if is_temporary:
        arguments.append("--temp")
    for key, value in overrides.items():
        arguments += ["--set-param", to_hydra(key, value, is_new=key not in known)]
    if is_temporary and (problem := path_problem(root)):
        raise InputError(f"{problem}: move the project, or train without --temp")
    edits = git_or_nothing(root, "diff", "--name-only", "HEAD")
    if edits and (problem := identity_problem(root)):
        raise InputError(f"{problem}: {SET_IDENTITY}")
    return run_dvc(root, *arguments, settings=settings)


def run_dvc(root: Path, *arguments: str, settings: Mapping[str, str]) -> int:
    """Run DVC in the project's folder, and return its exit code."""
    # The stages run as `python -m …`: this puts the running Python first.
    search_path = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
    # DVC and its stages inherit that they ignore SIGUSR1, except for a training.
    before = {signal.SIGUSR1: signal.signal(signal.SIGUSR1, signal.SIG_IGN)}
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        env={**os.environ, "PATH": search_path, **settings},
    )
    signal.signal(signal.SIGUSR1, lambda *_: _announce_end(process))
    # A SIGTERM to this command is meant for DVC.
    before[signal.SIGTERM] = signal.signal(
        signal.SIGTERM, lambda *_: process.terminate()
    )
    try:
        code = _exit_code(process)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code  # as shells say that a signal ended it


def _announce_end(process: subprocess.Popen[bytes]) -> None:
    """Pass a SIGUSR1 on to the stage that DVC runs."""
    import psutil

    with suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            child.send_signal(signal.SIGUSR1)


def _exit_code(process: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            pass  # DVC was interrupted as well, and ends in its own way


def to_hydra(key: str, value: Any, *, is_new: bool) -> str:
    """Return an override in the grammar that `dvc exp run --set-param` reads.

    See https://hydra.cc/docs/advanced/override_grammar/basic/.

    Raises:
        InputError: DVC would misread the key or the value.
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
