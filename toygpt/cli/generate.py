"""`python . generate`: let a model continue a text."""

import argparse
import io
import sys
from dataclasses import fields
from typing import Any

from toygpt.cli.options import add_model, check_prompt, model_directory
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.process import keep_freed_memory


def add_parser(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "generate",
        allow_abbrev=False,
        help="let a model continue a text",
        description=(
            "Let a model continue a text. Decoding is greedy: the most likely token "
            "each time. With one of --temperature, --top-k, --top-p and --seed it is "
            "sampling. Beyond its block size the model sees a sliding window, half of "
            "the block or more."
        ),
    )
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="text to continue; without it the model begins one of its own",
    )
    add_model(parser)
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=200,
        metavar="N",
        help="stop after so many tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="below 1 favours likely tokens, above 1 evens them out (default: 1)",
    )
    parser.add_argument(
        "--top-k",
        type=int,
        metavar="K",
        help="choose among the K most likely tokens (default: all)",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="choose among the likely tokens that together reach P (default: all)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of the sampling; the same one gives the same text (default: 0)",
    )
    parser.add_argument(
        "--accelerator",
        choices=["auto", "cpu", "gpu", "cuda", "mps"],
        default="auto",
        help="where to compute (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a text while the model writes it."""
    check_prompt(options, "--prompt")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not know UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    keep_freed_memory()  # large pages: a tenth more tokens per second
    # torch takes seconds to import: mistakes in the options are reported before.
    from toygpt.data.tokenizer import decode_as_it_comes
    from toygpt.generation.fastest import generate_batch
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
    with model_directory(options.model) as directory:
        model, tokenizer, end_of_text_id = load_model_and_tokenizer(directory, device)
    if options.prompt is None:
        prompt_ids = [end_of_text_id]  # in training a new text begins after it
    else:
        prompt_ids = tokenizer.encode(options.prompt, add_special_tokens=False).ids
        print(options.prompt, end="", flush=True)
    steps = generate_batch(
        pack(model),
        [prompt_ids],
        max_new_tokens=options.max_new_tokens,
        end_of_text_id=end_of_text_id,
        sampling=sampling,
    )
    new_ids = (step[0] for step in steps)  # of the one text
    for text in decode_as_it_comes(tokenizer, new_ids):
        print(text, end="", flush=True)
    print(flush=True)
    return 0
