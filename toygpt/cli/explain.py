"""`python . explain`: write a page on what a model does with a text."""

import argparse
import os
import webbrowser
from pathlib import Path
from typing import Any

from toygpt.cli.options import add_model, check_prompt, model_directory
from toygpt.explaining.length import NEW_TOKENS
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import write_text


def add_parser(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "explain",
        allow_abbrev=False,
        help="write a page on what a model does with a text",
        description="Write a page, one HTML file, on what a model does with a text.",
    )
    parser.add_argument(
        "prompt",
        nargs="?",
        metavar="PROMPT",
        help="a short text (default: the first of generate-samples.prompts)",
    )
    add_model(parser)
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=NEW_TOKENS,
        metavar="N",
        help="how many tokens the model adds, if there is room (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("explain.html"),
        metavar="FILE",
        help="file to write (default: %(default)s)",
    )
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the page."""
    check_prompt(options, "PROMPT")
    if options.output.is_dir():
        raise InputError(f"--output names a directory, not a file: {options.output}")
    # In a small network threads wait for each other longer than they compute; in a
    # larger one they gain little. PyTorch reads the setting when it is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # torch takes seconds to import: mistakes in the options are reported before.
    from toygpt.explaining.page import explain
    from toygpt.model.device import device_for
    from toygpt.model.huggingface import weights_digest
    from toygpt.model.loading import load_model_and_tokenizer

    prompt = options.prompt
    if prompt is None:
        from toygpt.pipeline.params_file import load_params

        params = load_params(paths.main_root() / paths.PARAMS)
        prompt = params.generate_samples.prompts[0]
    with model_directory(options.model) as directory:
        page = explain(
            load_model_and_tokenizer(directory, device_for("cpu")),
            prompt,
            max_new_tokens=options.max_new_tokens,
            digest=weights_digest(directory),
            may_cut=options.prompt is None,
        )
    write_text(options.output, page)
    print(f"{options.output}: {len(page) / 1000:.0f} kB, to open in a browser")
    if options.open:
        webbrowser.open(options.output.resolve().as_uri())
    return 0
