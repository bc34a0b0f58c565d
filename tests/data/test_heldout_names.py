"""The names of the test split's documents, in the order of the split."""

from itertools import compress
from pathlib import Path

import numpy as np
import pytest

from tests.data.written import write_splits
from toygpt.data.file_records import record_files
from toygpt.data.heldout_names import (
    TEST_DOCUMENTS,
    lines_of,
    read_test_documents,
)
from toygpt.data.manifest import Manifest, Part, read_manifest, write_manifest
from toygpt.data.split import TEST, TRAIN, VALIDATION, Assignment
from toygpt.pipeline.errors import InputError

# The second document is cut in three; the fourth has hostile names.
NAMES = [("a", "one"), ("b", "two"), ("c", "one"), ('"\n\u202e</b>', "\\"), ("e", "é")]
ASSIGNMENT = Assignment(
    ends=np.array([3, 5, 7, 9, 12, 14, 20]),
    splits=np.array([TEST, TRAIN, VALIDATION, TEST, TRAIN, TEST, TEST]),
    is_cut=np.array([False, True, True, False, False, False, False]),
    num_groups=4,
    num_groups_cut=1,
    num_groups_moved=0,
)


def written(directory: Path) -> Manifest:
    """Write splits as `split` does; return the manifest."""
    tokens = np.full(20, 1, dtype=np.uint16)
    tokens[ASSIGNMENT.ends[~ASSIGNMENT.is_cut] - 1] = 0
    parts: dict[str, Part] = write_splits(
        [tokens], ASSIGNMENT, directory, np.array([0, 1]), end_of_text_id=0
    )
    is_in_test = ASSIGNMENT.documents_in(TEST).tolist()
    lines = lines_of(compress(NAMES, is_in_test))
    (directory / TEST_DOCUMENTS).write_bytes(lines.encode())
    return write_manifest(
        directory,
        token_type="uint16",
        vocab_size=257,
        end_of_text_id=0,
        corpus_sha256="",
        tokenizer_sha256="",
        parts=parts,
        files=record_files(directory, "*"),
    )


def test_documents_are_named_in_order_and_one_that_is_cut_counts_once(
    tmp_path: Path,
) -> None:
    written(tmp_path)

    manifest = read_manifest(tmp_path, made_by="split")

    assert manifest.parts["test"].documents == 4
    assert read_test_documents(tmp_path, manifest) == [
        NAMES[number] for number in (0, 1, 3, 4)
    ]


def test_the_manifest_vouches_for_the_names(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / TEST_DOCUMENTS
    path.write_bytes(path.read_bytes().replace(b"two", b"too"))

    with pytest.raises(InputError, match=r"test_documents.jsonl is damaged"):
        read_manifest(tmp_path, made_by="split")


def test_splits_of_an_earlier_version_name_the_command(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    del manifest.files[TEST_DOCUMENTS]

    with pytest.raises(InputError, match=r"--force --single-item split"):
        read_test_documents(tmp_path, manifest)
