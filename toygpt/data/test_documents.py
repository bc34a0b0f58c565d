"""The names of the test split's documents, for a report on each of them."""

import json
from collections.abc import Iterable
from itertools import compress
from pathlib import Path

import numpy as np

from toygpt.data.manifest import Manifest
from toygpt.data.split import TEST, Assignment
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import new_file

TEST_DOCUMENTS = "test_documents.jsonl"


def write_test_documents(
    assignment: Assignment, names: Iterable[tuple[str, str]], directory: Path
) -> None:
    """Write a line for each document of the test split, in the order of test.bin.

    Args:
        assignment: The split of each piece; a document that is cut counts with its
            piece in the test split.
        names: The id and the group of every document of the corpus.
        directory: The folder of the splits.
    """
    ends_document = ~assignment.is_cut
    document_of_piece = ends_document.cumsum() - ends_document
    is_in_test = np.zeros(ends_document.sum(), dtype=bool)
    is_in_test[document_of_piece[assignment.splits == TEST]] = True
    with new_file(directory / TEST_DOCUMENTS) as file:
        for name, group in compress(names, is_in_test.tolist()):
            line = json.dumps({"id": name, "group": group}, ensure_ascii=False)
            file.write(f"{line}\n".encode())


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
