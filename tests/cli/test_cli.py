"""The command line as a whole: help, exit codes, and how it is started."""

import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.cli.conftest import assert_refused
from tests.conftest import Toygpt
from tests.project import PROJECT
from toygpt import cli
from toygpt.cli import build_parser
from toygpt.cli.options import OPTIONS, overrides_of
from toygpt.pipeline.params import flatten
from toygpt.pipeline.params_file import read_yaml

COMMANDS = (
    "train",
    "generate",
    "explain",
    "report",
    "resume",
    "track",
    "register",
    "publish",
    "export",
    "doctor",
)


@pytest.mark.parametrize(
    ("command", "code", "shown"),
    [
        ("python . train --help", 0, "usage: python . train "),
        ("toygpt --help", 0, "usage: toygpt "),
        ("python -m toygpt generate --prompt=", 2, ""),
        ("python -m toygpt resume", 2, ""),
        ("python . explain --max-new-tokens 0", 2, ""),
    ],
)
def test_help_and_mistakes_come_before_any_heavy_import(
    folder: Path, command: str, code: int, shown: str
) -> None:
    program, *arguments = command.split()
    settings = {"PYTHONPROFILEIMPORTTIME": "1", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        cwd=PROJECT if "." in arguments else folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )

    imported = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert done.returncode == code
    assert done.stdout.startswith(shown)
    assert "Traceback" not in done.stderr
    assert "toygpt.cli" in imported
    assert not imported & {"torch", "numpy", "pydantic", "ruamel.yaml", "mlflow", "dvc"}


def test_help_names_every_command_option_and_key(toygpt: Toygpt) -> None:
    overview = toygpt("--help").out
    actions = build_parser("toygpt")._actions
    (commands,) = [a.choices for a in actions if isinstance(a.choices, dict)]

    assert set(commands) == set(COMMANDS)
    assert_refused(toygpt(), "COMMAND")
    assert_refused(toygpt("frobnicate"), "'frobnicate'", *COMMANDS)
    for command in COMMANDS:
        assert f"\n    {command} " in overview
        assert_refused(toygpt(command, "--hel"))  # no abbreviations
        explained = toygpt(command, "--help").out
        for action in commands[command]._actions:
            assert action.help
            assert all(option in explained for option in action.option_strings)
    known = dict(flatten(read_yaml(PROJECT / "params.yaml")))
    explained = " ".join(toygpt("train", "--help").out.split())
    for key, option in OPTIONS.items():
        assert key in known
        assert re.search(rf" --{option} ((?! --).)*\({key}\)", explained)


@pytest.mark.parametrize(
    "command",
    ["train", "report", "resume", "track", "register", "publish me/toy", "doctor"],
)
@pytest.mark.parametrize("missing", ["params.yaml", "dvc.yaml"])
def test_a_command_needs_a_project(
    toygpt: Toygpt, folder: Path, missing: str, command: str
) -> None:
    (folder / missing).unlink()

    assert_refused(toygpt(*command.split()), f"{folder} is not a toyGPT project")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError(13, "Permission denied"), 1),
        (ModuleNotFoundError("No module named 'dvc'", name="dvc"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=repr,
)
def test_an_error_of_the_system_ends_a_command_in_one_line(
    toygpt: Toygpt, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    monkeypatch.setattr(cli.train, "project_root", Mock(side_effect=error))

    output = toygpt("train")

    assert output.code == code
    assert len(output.err.splitlines()) == (code == 1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {}),
        (["--model", "small"], {"model": "small"}),
        (["--batch", "7"], {"train.batch_size": 7}),
        (["--lr", "0.5"], {"train.learning_rate": 0.5}),
        (["--wd", "0.5"], {"train.weight_decay": 0.5}),
        (["--precision", "32-true"], {"train.precision": "32-true"}),
        (["--wnb"], {"tracking.wandb": "online"}),
        (["--wnb", "true"], {"tracking.wandb": "online"}),
        (["--wnb", "offline"], {"tracking.wandb": "offline"}),
        (["--wnb", "false"], {"tracking.wandb": "disabled"}),
        (["-S", "a.b=1_000"], {"a.b": 1000}),
        (["-S", "a=1e-3"], {"a": 0.001}),
        (["-S", "a="], {"a": None}),
        (["-S", "a=b=c"], {"a": "b=c"}),
        (["-S", "a='1'"], {"a": "1"}),
        (["-S", "a=[1, b c]"], {"a": [1, "b c"]}),
        (["-S", "a={}"], {}),  # DVC merges mappings
        (["-S", "a={b: {c: d}}"], {"a.b.c": "d"}),
        (["-S", "seed=1", "-S", "seed=2"], {"seed": 2}),
        (["--lr", "1", "-S", "train.learning_rate=2"], {"train.learning_rate": 2}),
    ],
    ids=str,
)
def test_an_option_stands_for_a_key(
    options: list[str], expected: dict[str, object]
) -> None:
    parsed = build_parser("toygpt").parse_args(["train", *options])

    assert overrides_of(parsed) == expected
