"""The names of the test split's documents, for a report on each of them."""

import json
from collections.abc import Iterable
from pathlib import Path

from toygpt.data.manifest import Manifest
from toygpt.pipeline.errors import InputError

TEST_DOCUMENTS = "test_documents.jsonl"


def lines_of(documents: Iterable[tuple[str, str]]) -> str:
    """Return a line for each document of the test split, in the order of test.bin.

    Args:
        documents: The id and the group of each; a document that is cut counts with its
            piece in the test split.
    """
    names = ({"id": name, "group": group} for name, group in documents)
    return "".join(f"{json.dumps(it, ensure_ascii=False)}\n" for it in names)


def read_test_documents(directory: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """Return the id and the group of each document of the test split, in order.

    Args:
        directory: The folder of the splits.
        manifest: As `read_manifest` returned it: so the file is what `split` wrote.

    Raises:
        InputError: The manifest does not name the file, or the file not all documents.
    """
    path, documents = directory / TEST_DOCUMENTS, []
    if path.name in manifest.files:
        with path.open(encoding="utf-8") as lines:
            documents = [(it["id"], it["group"]) for it in map(json.loads, lines)]
    if len(documents) != manifest.parts["test"].documents:
        raise InputError(
            f"{path} does not name the {manifest.parts['test'].documents:,} documents "
            f"of the test split: run `dvc repro --force --single-item split`"
        )
    return documents
