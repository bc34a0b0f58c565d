"""`python . export onnx`: write the model as ONNX, for other runtimes."""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError

PACKAGES = ("onnx", "onnxruntime", "onnxscript")  # the extra `onnx` of pyproject.toml


def add_parser(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "export",
        allow_abbrev=False,
        help="write the model as ONNX, for other runtimes",
        description=(
            "Write the model as ONNX, with its tokenizer, and compare the file with "
            "PyTorch in onnxruntime before it is put in its place. Needs the packages "
            "of `uv sync --extra onnx`."
        ),
    )
    parser.add_argument(
        "format", choices=["onnx"], metavar="onnx", help="the only format there is"
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help=f"directory of the model (default: {paths.MODEL})",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"directory to write (default: {paths.ONNX})",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Export the model, and print how exact the export is."""
    source = options.model or paths.main_root() / paths.MODEL
    target = options.out or paths.main_root() / paths.ONNX
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise InputError(
            f"the export needs the package {missing[0]}: run `uv sync --extra onnx`"
        )
    # torch takes seconds to import: mistakes are reported before.
    from toygpt.sharing.onnx import ONNX_FILE, export_onnx

    difference = export_onnx(source, target)
    print(
        f"{target / ONNX_FILE}: its logits differ from PyTorch's by {difference:.1e} "
        f"at most"
    )
    return 0
