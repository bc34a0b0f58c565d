"""Every command that the project writes down or prints exists.

Commands stand in the documents, in comments, in messages and in what the doctor
suggests. None is run here: each tool can say which options it takes. The code of the
model card runs in tests/model/test_card.py.
"""

import argparse
import io
import re
import shlex
import shutil
import subprocess
import tomllib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner
from dvc.cli import DvcParserError
from dvc.cli.parser import get_main_parser

from tests.project import PROJECT
from toygpt.cli import build_parser

pytestmark = pytest.mark.slow

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
# What may stand for a value that is unknown where the command is written.
PLACEHOLDER = "X=1"
# The tools that explain a subcommand, with the option for that.
EXPLAINS = {
    "git": "-h",
    **dict.fromkeys(["gto", "mlflow", "pip", "uv", "wandb"], "--help"),
}
# The shell's, the system's or a cluster's own; and what test_lm_eval.py runs for real.
SYSTEM = ["cd", "exit", "kill", "ls", "mv", "rm", "rmdir", "sbatch", "scontrol"]
SYSTEM += ["source", "srun", "uvx"]
TOOLS = ["dvc", "pytest", "python", "toygpt", *EXPLAINS, *SYSTEM]
COMMAND = re.compile(rf"(\w+=\S* )*({'|'.join(TOOLS)}) \S")
FENCED = re.compile(r"^```(bash\n)?(.*?)^```", re.DOTALL | re.MULTILINE)
WRITTEN_IN = (".md", ".py", ".sbatch", ".sh", ".toml", ".yaml")


def written_commands() -> dict[str, list[str]]:
    """Return each command once, with the files that it is written in."""
    commands: dict[str, list[str]] = {}
    files = [*PROJECT.glob("*.*"), *(PROJECT / "docs").rglob("*.*")]
    for folder in ("benchmarks", "experiments", "stages", "toygpt"):
        files += (PROJECT / folder).rglob("*.*")
    for path in files:
        if path.suffix in WRITTEN_IN:
            for text in filter(COMMAND.match, texts_in(path)):
                for command in re.split(r" && | \| |; ", text):
                    command = re.sub(r"^(\w+=\S* )+| ?(…|\.\.\.)$", "", command.strip())
                    if command not in ("", PLACEHOLDER):
                        name = str(path.relative_to(PROJECT))
                        commands.setdefault(command, []).append(name)
    return commands


def texts_in(path: Path) -> Iterator[str]:
    """Yield what is quoted in prose, and the lines and strings of code."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    if path.suffix == ".py":
        # The strings of a message are one, and a value stands for others.
        text = re.sub(r"(?m)\"\n *f?\"|^ *#", "", text)
        text = re.sub(r"\{[^{}\n]+\}", PLACEHOLDER, text)
        strings = (string for _, string in re.findall(r"""(["'])(.*?)\1""", text))
        yield from (string for string in strings if not re.search("[,:] ", string))
        for parts in re.findall(r"shlex\.join\(\[(.*)\]\)", text):
            words = (part.strip(" f") for part in parts.split(","))
            yield " ".join(w.strip('"') if '"' in w else PLACEHOLDER for w in words)
    if path.suffix in (".sbatch", ".sh"):
        for line in re.sub(r"(^|\s+)#.*", "", text).splitlines():
            yield line.strip().removeprefix("if ").removesuffix("; then")
    for is_bash, block in FENCED.findall(text):
        yield from re.sub(r"(^|\s+)#.*", "", block).splitlines() if is_bash else ()
    for paragraph in FENCED.sub("", text).split("\n\n"):
        for quote in re.findall("`([^`]+)`", paragraph):
            yield " ".join(quote.split())


def check(*words: str) -> None:
    """Fail if the tool would not understand the command."""
    match words:
        case ["dvc", _, *_]:
            check_parser(get_main_parser(), words[1:])
        case ["toygpt", _, *_]:
            check_parser(build_parser("toygpt"), words[1:])
        case ["python", ".", *rest] | ["python", "-m", "toygpt", *rest]:
            check("toygpt", *rest)
        case ["python", "-m", module, *rest]:
            found = find_spec(module.removesuffix(".NAME"))
            assert found is not None, f"there is no module {module}"
            # To import a benchmark takes half a minute; its source has its options.
            source = Path(str(found.origin))
            main = source.with_name("__main__.py")
            if source.name == "__init__.py" and main.is_file():
                source = main
            check_options(source.read_text(encoding="utf-8"), rest)
        case ["srun", *rest] if "python" in rest:
            check(*rest[rest.index("python") :])
        case ["pytest", "-m", expression]:
            markers = PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]
            name = expression.removeprefix("not ")
            assert any(marker.startswith(f"{name}: ") for marker in markers), markers
        case ["uv", "run", "--group", group, *rest]:
            assert group in PYPROJECT["dependency-groups"], f"there is no group {group}"
            check(*rest)
        case ["uv", "run", "--extra", extra, *rest]:
            check("uv", "sync", "--extra", extra)
            check("uv", "run", *rest)
        case ["uv", "run", *rest]:
            check(*rest)
        case ["uv", "sync", "--extra", extra] | [
            "uv",
            "sync",
            "--inexact",
            "--extra",
            extra,
        ]:
            assert extra in PYPROJECT["project"]["optional-dependencies"]
        case [tool, ("pip" | "experiments" | "models") as group, subcommand, *rest]:
            check_options(help_of(tool, group, subcommand), rest)
        case [tool, subcommand, *rest] if tool in EXPLAINS:
            check_options(help_of(tool, subcommand), rest)
        case ["dvc" | "pytest" | "python" | "toygpt"] | ["python", "-m"] | []:
            pass  # the tool is named, and no command of it
        case [tool, *_]:
            assert tool in SYSTEM, f"no check for {words}"


def check_parser(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Parse the words; in prose the value of the last option may be missing."""
    output = io.StringIO()
    for missing in ([], [PLACEHOLDER]):
        with redirect_stderr(output), redirect_stdout(output):
            try:
                parser.parse_args([*words, *missing])
                return
            except DvcParserError:
                pass
            except SystemExit as end:
                if not end.code:  # --version
                    return
    pytest.fail(output.getvalue())


@cache
def help_of(tool: str, *subcommand: str) -> str:
    """Return how a tool explains a command of its own."""
    if module := {"mlflow": "mlflow.cli", "wandb": "wandb.cli.cli"}.get(tool):
        with warnings.catch_warnings(action="ignore"):  # MLflow finds fault with itself
            cli = import_module(module).cli
        result = CliRunner().invoke(cli, [*subcommand, EXPLAINS[tool]])
        code, text = result.exit_code, result.output
    else:
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} here")
        command = [tool, *subcommand, EXPLAINS[tool]]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        code, text = done.returncode, done.stdout + done.stderr
    assert code in (0, 129), text  # 129: git's, after its help
    return text.replace("[no-]", "")


def check_options(explained: str, words: Sequence[str]) -> None:
    for word in words:
        option = re.escape(word.partition("=")[0])
        if word.startswith("-"):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", explained), word


WRITTEN = written_commands()


@pytest.mark.parametrize("command", sorted(WRITTEN))
def test_the_tool_knows_the_command(command: str) -> None:
    print("written in", ", ".join(WRITTEN[command]))

    check(*(word for word in shlex.split(command) if word != "$@"))


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("uv run dvc repro", "README.md"),  # a block
        ("dvc exp apply deeper", "README.md"),  # a sentence
        ("dvc queue kill NAME", "docs/decisions/pipeline.md"),  # over two lines
        ("uv run --group bench python -m benchmarks.training", "pyproject.toml"),
        ("dvc queue start --jobs 2", "experiments/recipe.sh"),
        ("python . resume --check", "docs/clusters/train.sbatch"),
        # A warning, an error, and what the doctor suggests.
        ("wandb login", "toygpt/tracking/wandb/tracker.py"),
        (f"dvc checkout --force {PLACEHOLDER}", "toygpt/model/huggingface.py"),
        ("dvc gc --all-commits --all-experiments", "toygpt/doctor/machine.py"),
        (f"git symbolic-ref HEAD refs/heads/{PLACEHOLDER}", "toygpt/doctor/git.py"),
        ("dvc exp show", "toygpt/cli/train.py"),
    ],
)
def test_commands_are_found_in_every_kind_of_place(command: str, place: str) -> None:
    assert place in WRITTEN[command]


@pytest.mark.parametrize(
    "command",
    [
        "dvc repro --forse",
        "git stash --popp",
        "mlflow ui --prot 5000",
        "pip install --upgrad uv",
        "pytest -m chaotic",
        "python . train --learning-rate 1",
        "python -m benchmarks.training --round",
        "uv run dvc reprod",
        "uv sync --groups bench",
        "uv sync --extra s4",
        "gto registre toygpt",
        "wandb sync --sync-all",  # known to W&B, but only to refuse it
        "wandb sink",
        "fdisk /dev/sda",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(command: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(*shlex.split(command))
