"""The manifest: token files are read as they were written, or not at all."""

import json
from collections.abc import Callable, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toygpt.data.file_records import record_files
from toygpt.data.manifest import (
    Manifest,
    Part,
    check_ids,
    open_shards,
    open_tokens,
    read_ends,
    read_manifest,
    write_manifest,
)
from toygpt.data.shards import Shard
from toygpt.data.token_files import token_type_for, write_tokens
from toygpt.pipeline.errors import InputError

DOCUMENTS = [[5, 6, 7, 0], [8, 0], [9, 10, 0]]
FORCE = "dvc repro --force --single-item tokenize"


def write(
    directory: Path,
    *shards: Sequence[Sequence[int]],
    vocab_size: int = 300,
) -> Manifest:
    directory.mkdir(exist_ok=True)
    num_tokens = num_documents = 0
    for number, documents in enumerate(shards or [DOCUMENTS]):
        counts = write_tokens(
            (np.array(document, dtype=np.uint32) for document in documents),
            directory,
            token_type=token_type_for(vocab_size),
            shard=Shard(number, max(1, len(shards))),
        )
        num_tokens += counts[0]
        num_documents += counts[1]
    return write_manifest(
        directory,
        token_type=token_type_for(vocab_size),
        vocab_size=vocab_size,
        end_of_text_id=0,
        corpus_sha256="c" * 64,
        tokenizer_sha256="d" * 64,
        parts={"tokens": Part(num_tokens, num_documents, bytes=17)},
        files=record_files(directory, "*.bin"),
    )


def read(directory: Path) -> Manifest:
    return read_manifest(directory, made_by="tokenize")


def complaint(directory: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(directory)
    assert str(caught.value).startswith(str(directory))
    return str(caught.value)


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = write(tmp_path, vocab_size=70_000)

    assert read(tmp_path) == written
    assert written.token_type == "uint32"
    assert written.parts == {"tokens": Part(tokens=9, documents=3, bytes=17)}
    tokens = open_tokens(tmp_path, written, "tokens")[:]
    ends = read_ends(tmp_path, written)
    assert [part.tolist() for part in np.split(tokens, ends[:-1])] == DOCUMENTS
    # No time and no place in it: else nothing made from it could be reused.
    write(tmp_path / "elsewhere", vocab_size=70_000)
    here, there = (
        (folder / "manifest.json").read_bytes()
        for folder in (tmp_path, tmp_path / "elsewhere")
    )
    assert here == there


SHARDS: list[list[list[int]]] = [[[5, 6, 7, 0]], [], [[8, 0], [9, 10, 0]]]


def test_several_shards_are_read_like_one(tmp_path: Path) -> None:
    one, several = write(tmp_path / "one"), write(tmp_path / "several", *SHARDS)

    assert read(tmp_path / "several") == several
    assert several.parts == one.parts
    assert several.files_of("tokens") == [f"tokens-0000{n}.bin" for n in range(3)]
    assert several.shard_sizes("tokens") == [4, 0, 5]
    assert one.digest_of("tokens") == one.files["tokens.bin"].sha256
    assert several.digest_of("tokens") != one.digest_of("tokens")
    shards = open_shards(tmp_path / "several", several, "tokens")
    assert [len(shard) for shard in shards] == [4, 0, 5]
    whole, joined = (
        open_tokens(tmp_path / name, manifest, "tokens")[:].tolist()
        for name, manifest in (("one", one), ("several", several))
    )
    assert joined == whole
    ends = read_ends(tmp_path / "several", several).tolist()
    assert ends == read_ends(tmp_path / "one", one).tolist() == [4, 6, 9]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "tokens-00001.bin").unlink(),
            "/tokens-00001.bin is missing: ",
        ),
        (
            lambda folder: (folder / "tokens-00003.bin").touch(),
            "/tokens-00003.bin is not in FOLDER/manifest.json, but left from another "
            "run: ",
        ),
        (
            lambda folder: (folder / "tokens-00000.bin").write_bytes(bytes(8)),
            "/tokens-00000.bin is damaged: its contents are not what tokenize wrote; ",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text(
                (folder / "manifest.json").read_text().replace("s-00001", "s-00004")
            ),
            "/manifest.json is damaged (there is tokens-00004.bin, but no "
            "tokens-00001.bin); ",
        ),
    ],
    ids=["missing", "too many", "of another corpus", "gap"],
)
def test_shards_that_are_not_those_of_the_manifest_are_named(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    write(tmp_path, *SHARDS)
    change(tmp_path)

    found = complaint(tmp_path)

    expected = message.replace("FOLDER", str(tmp_path))
    assert found == f"{tmp_path}{expected}run `{FORCE}`"


def test_a_process_may_read_its_share_of_the_files_alone(tmp_path: Path) -> None:
    """Of six files, tokens-00002.bin is the last: two processes share the rest."""
    write(tmp_path, *SHARDS)
    (tmp_path / "tokens-00002.bin").write_bytes(bytes(10))

    read_manifest(tmp_path, made_by="tokenize", share=(0, 2))
    with pytest.raises(InputError, match=r"tokens-00002\.bin is damaged"):
        read_manifest(tmp_path, made_by="tokenize", share=(1, 2))


@pytest.mark.parametrize(
    "ends", [[9, 6, 4], [4, 6], [4, 6, 10], [4, 6, 2**63 + 5], [4, 9, 9], [0, 6, 9]]
)
def test_documents_must_end_one_after_another_where_the_tokens_do(
    tmp_path: Path, ends: list[int]
) -> None:
    """Also if the manifest has the digest of the damaged file."""
    manifest = write(tmp_path)
    np.array(ends, dtype="<u8").tofile(tmp_path / "ends.bin")

    with pytest.raises(
        InputError, match=r"^the numbers in \S*/ends.bin are not where 3 documents end"
    ):
        read_ends(tmp_path, manifest)


def test_no_document_reaches_from_one_shard_into_the_next(tmp_path: Path) -> None:
    manifest = write(tmp_path, [[5, 0]], [[6, 0]])
    np.array([3], dtype="<u8").tofile(tmp_path / "ends-00000.bin")
    np.array([1], dtype="<u8").tofile(tmp_path / "ends-00001.bin")

    with pytest.raises(
        InputError, match=r"/ends-00000.bin to \S*/ends-00001.bin are not where 2"
    ):
        read_ends(tmp_path, manifest)


def test_a_part_without_tokens_is_named(tmp_path: Path) -> None:
    """An empty file cannot be mapped into memory; nothing can be learned from it."""
    manifest = write(tmp_path, [])

    for part, reason in (
        ("tokens", r"there are no tokens in \S*/tokens\.bin$"),
        ("train", r"names no tokens of train: run `dvc repro`"),
    ):
        with pytest.raises(InputError, match=reason):
            open_tokens(tmp_path, manifest, part)


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_token_id_beyond_the_vocabulary_is_refused(
    tmp_path: Path, place: int
) -> None:
    """The network has no vector for it."""
    tokens = np.array([5, 6, 7], dtype="<u2")
    tokens[place] = 300
    path = tmp_path / "tokens-00001.bin"
    tokens.tofile(path)

    check_ids(path, token_type="uint16", vocab_size=301)
    with pytest.raises(
        InputError, match=r"^tokens-00001\.bin would hold the token id 300, .* has 300"
    ):
        check_ids(path, token_type="uint16", vocab_size=300)


@pytest.mark.parametrize("name", ["tokens.bin", "ends.bin"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + bytes(8),
        lambda content: bytes([content[0] ^ 0b100]) + content[1:],
        lambda content: content[:-1] + bytes([content[-1] ^ 0b100]),
    ],
    ids=["cut", "longer", "first bit", "last bit"],
)
def test_a_damaged_file_is_named(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    write(tmp_path)
    file = tmp_path / name
    file.write_bytes(damage(file.read_bytes()))

    message = complaint(tmp_path)

    assert message.startswith(f"{file} is damaged: ")
    assert FORCE in message


@pytest.mark.parametrize("name", ["tokens.bin", "ends.bin", "manifest.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    (tmp_path / name).unlink()
    message = complaint(tmp_path)
    assert message.startswith(f"{tmp_path / name} is missing: run `dvc repro ")

    if name != "manifest.json":
        (tmp_path / name).mkdir()
        assert complaint(tmp_path) == message


ELSEWHERE = {"bytes": 18, "sha256": "a" * 64}
ONE = {"tokens": 1, "documents": 1, "bytes": 1}


@pytest.mark.parametrize(
    ("section", "change", "reason"),
    [
        *(("", content, "is damaged") for content in (b"", b"\xff\xfe", b"[]")),
        ("", {"token_type": None}, "token_type"),
        ("", {"mood": "good"}, "mood"),
        ("", {"version": 2}, "has version 2, this toyGPT reads 1"),
        ("", {"token_type": "float32"}, "float32 for a vocab"),
        ("", {"end_of_text_id": 65_536}, "outside the vocab"),
        ("", {"parts": []}, "parts"),
        ("parts", {"tokens": 9}, "parts.tokens"),
        ("parts tokens", {"tokens": 8}, "cannot hold 8"),
        ("parts", {"more": ONE}, "more.bin"),
        ("files tokens.bin", {"bytes": "18"}, "tokens.bin"),
        ("files", {"../tokens.bin": ELSEWHERE}, "'../tok"),
        ("files", {"/tokens.bin": ELSEWHERE}, "'/tokens."),
    ],
)
def test_a_manifest_that_cannot_be_true_is_refused(
    tmp_path: Path, section: str, change: dict[str, Any] | bytes, reason: str
) -> None:
    """It cannot name files elsewhere either."""
    write(tmp_path)
    path = tmp_path / "manifest.json"
    if isinstance(change, dict):
        values = json.loads(path.read_bytes())
        reduce(getitem, section.split(), values).update(change)
        change = json.dumps(values).encode()
    path.write_bytes(change)

    message = complaint(tmp_path)

    assert message.startswith(str(path))
    assert reason in message
    assert message.endswith(f"run `{FORCE}`")
