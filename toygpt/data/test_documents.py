"""The documents of the test split by their names, for a report on each of them."""

import json
from collections.abc import Iterable
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from toygpt.data.manifest import Manifest
from toygpt.data.split import TEST, Assignment
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import new_file

TEST_DOCUMENTS = "test_documents.jsonl"


class TestDocument(NamedTuple):
    """The names of a document; one that was cut counts with its part in the split."""

    __test__ = False  # pytest would take the class for a test

    id: str
    group: str


def write_test_documents(
    assignment: Assignment, names: Iterable[tuple[str, str]], directory: Path
) -> None:
    """Write a line for each document of the test split, in the order of the split.

    Args:
        assignment: The split of each piece of the corpus.
        names: The id and the group of each document of the corpus.
        directory: The folder of the splits.
    """
    ends_a_document = ~assignment.is_cut
    document_of_piece = ends_a_document.cumsum() - ends_a_document
    is_in_test = np.zeros(ends_a_document.sum(), dtype=bool)
    is_in_test[document_of_piece[assignment.splits == TEST]] = True
    with new_file(directory / TEST_DOCUMENTS) as file:
        for document in compress(names, is_in_test.tolist()):
            line = json.dumps(TestDocument(*document)._asdict(), ensure_ascii=False)
            file.write(f"{line}\n".encode())


def read_test_documents(directory: Path, manifest: Manifest) -> list[TestDocument]:
    """Return the documents of the test split, in the order of the split.

    Args:
        directory: The folder of the splits.
        manifest: As `read_manifest` returned it: the file is what `split` wrote.

    Raises:
        InputError: `split` wrote no such file, or it names other documents.
    """
    path = directory / TEST_DOCUMENTS
    documents = []
    if TEST_DOCUMENTS in manifest.files:
        with path.open(encoding="utf-8") as lines:
            documents = [TestDocument(**json.loads(line)) for line in lines]
    if len(documents) != manifest.parts["test"].documents:
        raise InputError(
            f"{path} does not name the {manifest.parts['test'].documents:,} documents "
            f"of the test split: run `dvc repro --force --single-item split`"
        )
    return documents
