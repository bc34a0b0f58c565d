"""Every command that the project writes down or prints exists.

Commands stand in the documents, in comments, in messages and in what the doctor
suggests. None is run here: each tool has a way to say what it takes. The code of the
model card runs in tests/model/test_card.py.
"""

import argparse
import ast
import importlib.util
import io
import re
import shlex
import shutil
import subprocess
import tokenize
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import click
import pytest
from dvc.cli import DvcParserError
from dvc.cli.parser import get_main_parser

from tests.project import PROJECT
from toygpt.cli import build_parser

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = ("benchmarks", "experiments", "stages", "toygpt")
# What may stand for a value that is unknown where the command is written.
PLACEHOLDER = "X=1"


def written_commands() -> dict[str, list[str]]:
    """Return each command once, with the files that it is written in."""
    commands: dict[str, list[str]] = {}
    for path in _files():
        for text in _commands_in(path):
            for command in map(_cleaned, re.split(r" && | \| |; ", text)):
                if command != PLACEHOLDER:
                    places = commands.setdefault(command, [])
                    places.append(str(path.relative_to(PROJECT)))
    return commands


def _files() -> list[Path]:
    source = [path for folder in FOLDERS for path in (PROJECT / folder).rglob("*.*")]
    pages = [*PROJECT.glob("*.*"), *(PROJECT / "docs").rglob("*.md")]
    return [path for path in [*source, *pages] if path.suffix in READERS]


def _commands_in(path: Path) -> Iterator[str]:
    for text in READERS[path.suffix](path.read_text(encoding="utf-8")):
        yield text.replace("\\\n", " ")


def _in_markdown(text: str) -> Iterator[str]:
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        lines = re.sub(r"\s+#.*$|^#.*$", "", block, flags=re.MULTILINE)
        yield from filter(None, lines.replace("\\\n", " ").splitlines())
    yield from _in_quotes(text)


def _in_python(text: str) -> Iterator[str]:
    """Yield what is quoted in strings and comments, and strings that are commands."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from _in_quotes(token.string)
    tree = ast.parse(text)
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        match node:
            case ast.Constant(value=str()) | ast.JoinedStr():
                value = _value_of(node)
                yield from _in_quotes(value)
                if _is_command(value) and not re.search("[,:] ", value):
                    yield value
            case ast.Call(
                func=ast.Attribute(attr="join", value=ast.Name(id="shlex")),
                args=[ast.List(elts=parts)],
            ):
                yield shlex.join(map(_value_of, parts))


def _value_of(node: ast.expr) -> str:
    """Return a string as it will be, but for the values that are put into it."""
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=parts):
            return "".join(map(_value_of, parts))
        case _:
            return PLACEHOLDER


def _in_script(text: str) -> Iterator[str]:
    lines = text.replace("\\\n", " ").splitlines()
    yield from (line.strip() for line in lines if _is_command(line.strip()))
    yield from _in_comments(text)


def _in_comments(text: str) -> Iterator[str]:
    for comment in re.findall(r"#.*", text):
        yield from _in_quotes(comment)


def _in_quotes(text: str) -> Iterator[str]:
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for quoted in re.findall(r"`([^`]+)`", text):
        if _is_command(line := " ".join(quoted.split())):
            yield line


def _is_command(text: str) -> bool:
    tools = "|".join(map(re.escape, CHECKS))
    return re.match(rf"(\w+=\S* )*({tools}) \S", text) is not None


def _cleaned(command: str) -> str:
    """Return the command without variables before it, and dots for what is left out."""
    command = re.sub(r"^(\w+=\S* )+", "", command.strip())
    return re.sub(r" ?(…|\.\.\.)$", "", command)


def check(command: str) -> None:
    """Fail if the tool would not understand the command."""
    words = [word for word in shlex.split(command) if word != "$@"]
    tool = next((name for name in CHECKS if command.split(maxsplit=1)[0] == name), None)
    assert tool is not None, f"no check for the tool of `{command}`"
    CHECKS[tool](words[1:])


def _check_parser(parse: Callable[[list[str]], object], words: Sequence[str]) -> None:
    """Parse the words; in prose the value of the last option may be missing."""
    output = io.StringIO()
    for missing in ([], [PLACEHOLDER]):
        with redirect_stderr(output), redirect_stdout(output):
            try:
                parse([*words, *missing])
                return
            except DvcParserError:
                pass
            except SystemExit as end:
                if not end.code:  # --version
                    return
    pytest.fail(output.getvalue())


def _check_dvc(words: Sequence[str]) -> None:
    if words:
        _check_parser(_dvc_parser().parse_args, words)


@cache
def _dvc_parser() -> argparse.ArgumentParser:
    return get_main_parser()


def _check_ours(words: Sequence[str]) -> None:
    if words:
        _check_parser(build_parser("toygpt").parse_args, words)


def _check_python(words: Sequence[str]) -> None:
    match words:
        case [] | ["-m"]:
            pass
        case [".", *rest] | ["-m", "toygpt", *rest]:
            _check_ours(rest)
        case ["-m", module, *rest]:
            _check_module(module, rest)
        case _:
            pytest.fail(f"neither this folder nor a module: {words}")


def _check_module(module: str, words: Sequence[str]) -> None:
    found = importlib.util.find_spec(module.removesuffix(".NAME"))
    assert found is not None, f"there is no module {module}"
    # To import a benchmark takes half a minute; its options stand in its source.
    _check_options(Path(str(found.origin)).read_text(encoding="utf-8"), words)


def _check_wandb(words: Sequence[str]) -> None:
    from wandb.cli.cli import cli

    _check_click(cli, words)


def _check_mlflow(words: Sequence[str]) -> None:
    with warnings.catch_warnings(action="ignore"):  # it finds fault with itself
        from mlflow.cli import cli

    _check_click(cli, words)


def _check_click(command: click.Command, words: Sequence[str]) -> None:
    """Parse the words with the command they name; hidden options were removed."""
    context = None
    while isinstance(command, click.Group) and words:
        context = click.Context(command, parent=context, info_name=command.name)
        found = command.get_command(context, words[0])
        assert found is not None, f"{command.name} has no command {words[0]}"
        command, words = found, words[1:]
    if isinstance(command, click.Group):
        return
    try:
        context = command.make_context(command.name, list(words), parent=context)
    except click.UsageError as error:
        pytest.fail(error.format_message())
    for parameter in command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is click.core.ParameterSource.COMMANDLINE:
            assert not getattr(parameter, "hidden", False), parameter.opts


def _check_git(words: Sequence[str]) -> None:
    (subcommand, *rest) = words
    _check_options(_help("git", subcommand, "-h"), rest)


def _check_uv(words: Sequence[str]) -> None:
    match words:
        case ["run", "--group", group, *rest]:
            assert group in PYPROJECT["dependency-groups"], f"there is no group {group}"
            _check_uv(["run", *rest])
        case ["run", *rest]:
            if rest:
                check(shlex.join(rest))
        case ["pip", subcommand, *rest]:
            _check_options(_help("uv", "pip", subcommand, "--help"), rest)
        case [subcommand, *rest]:
            _check_options(_help("uv", subcommand, "--help"), rest)


def _check_uvx(words: Sequence[str]) -> None:
    """Check uvx's own options: test_lm_eval.py runs the program for real."""
    _check_options(_help("uvx", "--help"), [words[0]])


def _check_pip(words: Sequence[str]) -> None:
    (subcommand, *rest) = words
    _check_options(_help("pip", subcommand, "--help"), rest)


@cache
def _help(*command: str) -> str:
    """Return how a tool explains a command of its own."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} here")
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert re.match(r"\s*usage|.*\n+usage", text, re.IGNORECASE), text
    return text.replace("[no-]", "")


def _check_options(explained: str, words: Sequence[str]) -> None:
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("-"):
            known = re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", explained)
            assert known, f"{option} is not in:\n{explained}"


def _check_pytest(words: Sequence[str]) -> None:
    match words:
        case []:
            pass
        case ["-m", expression]:
            name = expression.removeprefix("not ")
            markers = PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]
            assert any(marker.startswith(f"{name}: ") for marker in markers), markers
        case _:
            pytest.fail(f"no check for {words}")


def _check_system(words: Sequence[str]) -> None:
    """The shell's, the system's or a cluster's own; they do not change."""


CHECKS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "dvc": _check_dvc,
    "git": _check_git,
    "mlflow": _check_mlflow,
    "pip": _check_pip,
    "pytest": _check_pytest,
    "python": _check_python,
    "toygpt": _check_ours,
    "uv": _check_uv,
    "uvx": _check_uvx,
    "wandb": _check_wandb,
} | dict.fromkeys(
    ("cd", "kill", "ls", "mv", "rm", "rmdir", "sbatch", "source", "srun"), _check_system
)
READERS: dict[str, Callable[[str], Iterator[str]]] = {
    ".md": _in_markdown,
    ".py": _in_python,
    ".sh": _in_script,
    ".toml": _in_comments,
    ".yaml": _in_comments,
}


WRITTEN = written_commands()


@pytest.mark.parametrize("command", sorted(WRITTEN))
def test_the_tool_knows_the_command(command: str) -> None:
    print("written in", ", ".join(WRITTEN[command]))

    check(command)


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("uv run dvc repro", "README.md"),  # a block
        ("dvc exp apply deeper", "README.md"),  # a sentence
        ("dvc queue kill NAME", "docs/decisions/pipeline.md"),  # over two lines
        ("uv run --group bench python -m benchmarks.training", "pyproject.toml"),
        ("dvc queue start --jobs 2", "experiments/recipe.sh"),
        # A warning, an error, and what the doctor suggests.
        ("wandb login", "toygpt/tracking/wandb.py"),
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
        "dvc plot show",
        "dvc repro --forse",
        "git stash --popp",
        "mlflow uii",
        "mlflow ui --prot 5000",
        "pip install --upgrad uv",
        "pytest -m chaotic",
        "python . train --learning-rate 1",
        "python -m benchmarks.training --round",
        "python -m benchmarks.trainings",
        "uv run dvc reprod",
        "uv sync --groups bench",
        "wandb sync --sync-all",  # known to W&B, but only to refuse it
        "wandb sink",
        "fdisk /dev/sda",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(command: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(command)
