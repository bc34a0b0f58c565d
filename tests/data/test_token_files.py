"""Token ids on disk: read as they were written, or not at all."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toygpt.data.manifest import (
    Manifest,
    Part,
    open_tokens,
    read_manifest,
    write_manifest,
)
from toygpt.data.token_files import END_TYPE, token_type_for, write_tokens
from toygpt.pipeline.errors import InputError

DOCUMENTS = [[5, 6, 7, 0], [8, 0], [9, 10, 0]]
Values = dict[str, Any]


def write(
    directory: Path,
    documents: Sequence[Sequence[int]] = DOCUMENTS,
    *,
    vocab_size: int = 300,
) -> Path:
    """Write documents of token ids and the manifest that vouches for them."""
    token_type = token_type_for(vocab_size)
    num_tokens, num_documents = write_tokens(
        (np.array(document, dtype=np.uint32) for document in documents),
        directory,
        token_type=token_type,
    )
    write_manifest(
        directory,
        token_type=token_type,
        vocab_size=vocab_size,
        end_of_text_id=0,
        corpus_sha256="c" * 64,
        tokenizer_sha256="d" * 64,
        parts={"tokens": Part(num_tokens, num_documents, bytes=17)},
    )
    return directory


def read(directory: Path) -> Manifest:
    return read_manifest(directory, made_by="tokenize")


def complaint(directory: Path) -> str:
    """Return what the user reads when token files cannot be trusted."""
    with pytest.raises(InputError) as caught:
        read(directory)
    return str(caught.value)


def change_manifest(directory: Path, change: Callable[[Values], object]) -> None:
    path = directory / "manifest.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize(
    ("vocab_size", "token_type"),
    [(257, "uint16"), (65_535, "uint16"), (65_536, "uint16"), (65_537, "uint32")],
)
def test_a_token_takes_two_bytes_while_they_hold_every_id(
    vocab_size: int, token_type: str
) -> None:
    assert token_type_for(vocab_size) == token_type


@pytest.mark.parametrize(
    ("vocab_size", "bytes_per_token"),
    [(65_536, 2), (65_537, 4), (2**32, 4)],
)
def test_the_largest_id_comes_back_as_it_was(
    tmp_path: Path, vocab_size: int, bytes_per_token: int
) -> None:
    document = [0, 1, vocab_size - 1]
    write(tmp_path, [document], vocab_size=vocab_size)

    tokens = open_tokens(tmp_path, read(tmp_path), "tokens")

    assert tokens.tolist() == document
    assert (tmp_path / "tokens.bin").stat().st_size == 3 * bytes_per_token


def test_tokens_lie_one_after_another_with_their_lowest_byte_first(
    tmp_path: Path,
) -> None:
    """So that any program on any machine can read them."""
    write(tmp_path, [[0x0102, 0x0304], [0x0506]], vocab_size=65_536)

    assert (tmp_path / "tokens.bin").read_bytes() == bytes([2, 1, 4, 3, 6, 5])
    assert (tmp_path / "ends.bin").read_bytes() == (
        bytes([2, 0, 0, 0, 0, 0, 0, 0]) + bytes([3, 0, 0, 0, 0, 0, 0, 0])
    )


def test_documents_end_where_the_ends_say(tmp_path: Path) -> None:
    write(tmp_path)

    tokens = open_tokens(tmp_path, read(tmp_path), "tokens")
    ends = np.fromfile(tmp_path / "ends.bin", dtype=END_TYPE)

    found = [part.tolist() for part in np.split(tokens, ends[:-1].astype(int))]
    assert found == DOCUMENTS
    assert ends[-1] == len(tokens)


def test_documents_and_tokens_are_counted(tmp_path: Path) -> None:
    counted = write_tokens(
        [np.array([1, 2, 0], dtype=np.uint32), np.array([0], dtype=np.uint32)],
        tmp_path,
        token_type="uint16",
    )

    assert counted == (4, 2)


def test_the_manifest_says_what_it_was_told(tmp_path: Path) -> None:
    write(tmp_path, vocab_size=70_000)

    manifest = read(tmp_path)

    assert manifest.token_type == "uint32"
    assert manifest.vocab_size == 70_000
    assert manifest.end_of_text_id == 0
    assert manifest.corpus_sha256 == "c" * 64
    assert manifest.tokenizer_sha256 == "d" * 64
    assert manifest.parts == {"tokens": Part(tokens=9, documents=3, bytes=17)}
    assert sorted(manifest.files) == ["ends.bin", "tokens.bin"]


def test_who_writes_a_manifest_need_not_read_it(tmp_path: Path) -> None:
    """Reading it checks every file once more, which may be gigabytes."""
    num_tokens, num_documents = write_tokens(
        [np.array([1, 2, 0], dtype=np.uint32)], tmp_path, token_type="uint16"
    )

    written = write_manifest(
        tmp_path,
        token_type="uint16",
        vocab_size=300,
        end_of_text_id=0,
        corpus_sha256="c" * 64,
        tokenizer_sha256="d" * 64,
        parts={"tokens": Part(num_tokens, num_documents, bytes=17)},
    )

    assert written == read(tmp_path)


def test_the_same_tokens_have_the_same_manifest_anywhere(tmp_path: Path) -> None:
    """No time and no place in it: else nothing made from it could be reused."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        write(tmp_path / name)

    manifests = [
        (tmp_path / name / "manifest.json").read_bytes() for name in ("here", "there")
    ]

    assert manifests[0] == manifests[1]


def test_tokens_on_disk_cannot_be_overwritten(tmp_path: Path) -> None:
    tokens = open_tokens(write(tmp_path), read(tmp_path), "tokens")

    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_a_part_without_tokens_is_named(tmp_path: Path) -> None:
    """An empty file cannot be mapped into memory; nothing can be learned from it."""
    write(tmp_path, [])

    with pytest.raises(InputError, match=r"tokens\.bin holds no tokens"):
        open_tokens(tmp_path, read(tmp_path), "tokens")


@pytest.mark.parametrize("name", ["tokens.bin", "ends.bin"])
@pytest.mark.parametrize("num_bytes", [1, 2, 8])
def test_a_truncated_file_is_named(tmp_path: Path, name: str, num_bytes: int) -> None:
    file = write(tmp_path) / name
    file.write_bytes(file.read_bytes()[:-num_bytes])

    message = complaint(tmp_path)

    assert message.startswith(f"{file} is damaged: ")
    assert "dvc repro --force --single-item tokenize" in message


@pytest.mark.parametrize("name", ["tokens.bin", "ends.bin"])
def test_an_extended_file_is_named(tmp_path: Path, name: str) -> None:
    file = write(tmp_path) / name
    file.write_bytes(file.read_bytes() + bytes(8))

    message = complaint(tmp_path)

    assert message.startswith(f"{file} is damaged: ")


@pytest.mark.parametrize("name", ["tokens.bin", "ends.bin"])
@pytest.mark.parametrize("place", [0, 7, -1])
def test_one_flipped_bit_is_found(tmp_path: Path, name: str, place: int) -> None:
    file = write(tmp_path) / name
    content = bytearray(file.read_bytes())
    content[place] ^= 0b100
    file.write_bytes(content)

    message = complaint(tmp_path)

    assert message.startswith(f"{file} is damaged: ")


@pytest.mark.parametrize("name", ["tokens.bin", "ends.bin"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    file = write(tmp_path) / name
    file.unlink()

    message = complaint(tmp_path)

    assert message.startswith(f"{file} is missing: ")


def test_a_folder_in_place_of_a_file_is_no_file(tmp_path: Path) -> None:
    file = write(tmp_path) / "tokens.bin"
    file.unlink()
    file.mkdir()

    message = complaint(tmp_path)

    assert message.startswith(f"{file} is missing: ")


def test_a_missing_manifest_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    message = complaint(tmp_path / "nowhere")

    assert "manifest.json is missing" in message
    assert "dvc repro tokenize" in message


@pytest.mark.parametrize(
    "content", [b"", b"{", b"plain", b"\xff\xfe", b"null", b"7", b"[]", b"{}", b'"a"']
)
def test_a_file_that_is_no_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path) / "manifest.json"
    path.write_bytes(content)

    message = complaint(tmp_path)

    assert message.startswith(f"{path} is no manifest")
    assert "dvc repro --force --single-item tokenize" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("token_type"),
        lambda values: values.pop("files"),
        lambda values: values.update(mood="good"),
        lambda values: values.update(token_type="float32"),
        lambda values: values.update(token_type=["uint16"]),
        lambda values: values.update(parts=[]),
        lambda values: values.update(parts=None),
        lambda values: values.update(files=["tokens.bin"]),
        lambda values: values["parts"].update(tokens=9),
        lambda values: values["parts"]["tokens"].pop("bytes"),
        lambda values: values["files"].update({"tokens.bin": None}),
        lambda values: values["files"]["tokens.bin"].pop("sha256"),
        lambda values: values["files"]["tokens.bin"].update(bytes="18"),
        lambda values: values["files"]["tokens.bin"].update(bytes=None),
    ],
    ids=[
        "no token type",
        "no files",
        "another key",
        "unknown token type",
        "list as token type",
        "list as parts",
        "null as parts",
        "list as files",
        "number as part",
        "part without bytes",
        "null as file",
        "file without digest",
        "text as size",
        "null as size",
    ],
)
def test_a_manifest_of_another_shape_is_refused(
    tmp_path: Path, change: Callable[[Values], object]
) -> None:
    write(tmp_path)
    change_manifest(tmp_path, change)

    message = complaint(tmp_path)

    assert message.startswith(str(tmp_path))


def test_a_manifest_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    change_manifest(tmp_path, lambda values: values.update(version=2))

    message = complaint(tmp_path)

    assert message.startswith(f"{tmp_path / 'manifest.json'} is no manifest")
    assert "version 2" in message


@pytest.mark.parametrize("name", ["../tokens.bin", "/tokens.bin", "a/../tokens.bin"])
def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path, name: str) -> None:
    """Such a file is even there, with the right size and digest."""
    directory = tmp_path / "tokens"
    (directory / "a").mkdir(parents=True)
    write(directory)
    (tmp_path / "tokens.bin").write_bytes((directory / "tokens.bin").read_bytes())
    change_manifest(
        directory,
        lambda values: values["files"].update({name: values["files"]["tokens.bin"]}),
    )

    message = complaint(directory)

    assert message.startswith(f"{directory / 'manifest.json'} is no manifest")
    assert repr(name) in message


@settings(max_examples=100)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_manifest_never_surprises(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    """It is told to the user, or it changed nothing about the files."""
    directory = write(tmp_path_factory.mktemp("tokens"))
    intact = read(directory)
    path = directory / "manifest.json"
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)

    with suppress(InputError):
        changed = read(directory)

        assert changed.files == intact.files
        assert changed.version == intact.version
