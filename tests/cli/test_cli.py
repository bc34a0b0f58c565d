"""The command line as a whole: help, exit codes, and how it is started."""

import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.cli.command import Toygpt, assert_refused
from tests.project import PROJECT
from toygpt import cli
from toygpt.cli import build_parser
from toygpt.cli.options import OPTIONS, overrides_of
from toygpt.pipeline.params import flatten
from toygpt.pipeline.params_file import read_yaml

COMMANDS = ("train", "generate", "resume", "track", "doctor")
STARTS = {
    "python .": [sys.executable, "."],
    "python -m toygpt": [sys.executable, "-m", "toygpt"],
    "toygpt": [str(Path(sys.executable).with_name("toygpt"))],
}


@pytest.mark.parametrize(
    ("start", "arguments", "code"),
    [
        ("python .", ["train", "--help"], 0),
        ("toygpt", ["--help"], 0),
        ("python -m toygpt", ["generate", "--prompt", ""], 2),
        ("python -m toygpt", ["resume"], 2),
    ],
    ids=str,
)
def test_help_and_mistakes_come_before_any_heavy_import(
    folder: Path, start: str, arguments: list[str], code: int
) -> None:
    done = subprocess.run(
        [*STARTS[start], *arguments],
        # `python .` is in the real project alone.
        cwd=PROJECT if start == "python ." else folder,
        env=os.environ
        | {"PYTHONPROFILEIMPORTTIME": "1", "COLUMNS": "80", "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
    )

    imported = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert done.returncode == code
    assert "toygpt.cli" in imported
    assert not imported & {"torch", "numpy", "pydantic", "ruamel.yaml", "mlflow", "dvc"}
    if code == 0:
        assert done.stdout.startswith(f"usage: {start} ")
    else:
        assert "Traceback" not in done.stderr


def test_help_names_every_command_and_option(toygpt: Toygpt) -> None:
    overview = toygpt("--help").out
    actions = build_parser("toygpt")._actions
    (commands,) = [a.choices for a in actions if isinstance(a.choices, dict)]

    assert set(commands) == set(COMMANDS)
    for command in COMMANDS:
        assert f"\n    {command} " in overview
        assert_refused(toygpt(command, "--hel"))  # no abbreviations
        explained = toygpt(command, "--help").out
        for action in commands[command]._actions:
            assert action.help
            assert all(option in explained for option in action.option_strings)


def test_a_command_is_needed_and_must_be_a_known_one(toygpt: Toygpt) -> None:
    assert_refused(toygpt(), "COMMAND")
    assert_refused(toygpt("frobnicate"), "'frobnicate'", *COMMANDS)


@pytest.mark.parametrize("command", ["train", "resume", "track", "doctor"])
@pytest.mark.parametrize("missing", ["params.yaml", "dvc.yaml"])
def test_a_command_needs_a_project(
    toygpt: Toygpt, folder: Path, missing: str, command: str
) -> None:
    (folder / missing).unlink()

    assert_refused(toygpt(command), f"{folder} is not a toyGPT project")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError(13, "Permission denied"), 1),
        (ModuleNotFoundError("No module named 'dvc'", name="dvc"), 1),
        (KeyboardInterrupt(), 130),
        # A fault in the code keeps its traceback.
        (ModuleNotFoundError("No module named 'toygpt.x'", name="toygpt.x"), None),
    ],
    ids=repr,
)
def test_an_error_of_the_system_ends_a_command_in_one_line(
    toygpt: Toygpt,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int | None,
) -> None:
    monkeypatch.setattr(cli.train, "project_root", Mock(side_effect=error))

    if code is None:
        with pytest.raises(ModuleNotFoundError):
            toygpt("train")
    else:
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
        (["-S", "a={}"], {}),
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


def test_the_help_of_an_option_names_its_key(toygpt: Toygpt) -> None:
    known = dict(flatten(read_yaml(PROJECT / "params.yaml")))
    explained = " ".join(toygpt("train", "--help").out.split())

    for key, option in OPTIONS.items():
        assert key in known
        assert re.search(rf" --{option} ((?! --).)*\({key}\)", explained)
