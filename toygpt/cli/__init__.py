"""The command line, each command in the file of its name: `python . train`, …

The same as `toygpt …` where it is installed, and as `python -m toygpt …`.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from toygpt.cli import (
    doctor,
    explain,
    export,
    generate,
    publish,
    register,
    report,
    resume,
    track,
    train,
)
from toygpt.pipeline.errors import InputError, missing_package
from toygpt.pipeline.stage import INTERRUPTED

FAILURE = 1
USAGE_ERROR = 2  # as in argparse


def main(arguments: Sequence[str] | None = None, *, program: str = "toygpt") -> int:
    """Run a command and return its exit code."""
    options = build_parser(program).parse_args(arguments)
    try:
        return int(options.run(options))
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
    except BrokenPipeError:  # as when the output goes to `head`, which has ended
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
    for command in (
        train,
        generate,
        explain,
        report,
        resume,
        track,
        register,
        publish,
        export,
        doctor,
    ):
        command.add_parser(commands)
    return parser
