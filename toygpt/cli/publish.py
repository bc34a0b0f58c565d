"""`python . publish`: publish the model on the Hugging Face hub."""

import argparse
import sys
from pathlib import Path
from typing import Any

from toygpt.cli.dvc import project_root
from toygpt.pipeline import paths


def add_parser(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "publish",
        allow_abbrev=False,
        help="publish the model on the Hugging Face hub",
        description=(
            f"Publish {paths.MODEL} on the Hugging Face hub, with a card that has its "
            f"licences (`publish` in {paths.PARAMS}), its data and its test results. "
            f"Without --yes nothing leaves this machine: the files and the card are "
            f"shown. The token is the one of `hf auth login`, or HF_TOKEN."
        ),
    )
    parser.add_argument(
        "repository",
        metavar="NAME/REPO",
        help="your name on the hub, or your organisation's, and the model's",
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="upload, in one commit; other files of the repository stay",
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="if the repository is a new one, only you can see it",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show what would be published, or publish it."""
    root = project_root()
    from toygpt.sharing.card import sources_of
    from toygpt.sharing.publish import (
        check_repository_name,
        files_to_publish,
        publish,
    )
    from toygpt.sharing.trained_model import read_trained_model

    check_repository_name(options.repository)
    model = read_trained_model(root)
    files = files_to_publish(root, model, options.repository)
    for name, content in files.items():
        print(f"{_size(content):>15,} bytes  {name}")
    if not model.test_results:
        _note("the card has no test results: `dvc repro evaluate` measures them")
    for source in sources_of(model.params):
        if source.terms is None or not source.terms.licenses:
            _note(
                f"the licence of the text {source.name!r} is not known: name it in "
                f"publish.{source.name}.licenses of {paths.PARAMS}"
            )
    if options.yes:
        address = publish(options.repository, files, is_private=options.private)
        print(f"published: {address}")
    else:
        card = files["README.md"]
        assert isinstance(card, bytes)
        print(f"\n{card.decode()}")
        _note("nothing was uploaded; to upload this, add --yes")
    return 0


def _size(content: Path | bytes) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _note(sentence: str) -> None:
    sys.stdout.flush()
    print(f"note: {sentence}", file=sys.stderr)
