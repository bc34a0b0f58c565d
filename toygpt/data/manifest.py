"""The manifest of a folder of token files: what the files hold, and their digests.

A stage reads token files only through the manifest, so that a file that was damaged,
exchanged or written by another version is found before it becomes a wrong result.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toygpt.data.token_files import (
    END_TYPE,
    TOKEN_TYPES,
    TokenIds,
    largest_id,
    map_tokens,
    token_type_for,
)
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import sha256_of, write_json
from toygpt.pipeline.json_file import read_json

MANIFEST_VERSION = 1


@dataclass(frozen=True)
class FileRecord:
    """The size and the digest by which a file is known to be unchanged."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """How much text a token file holds."""

    tokens: int
    documents: int
    bytes: int  # of UTF-8 text; <|endoftext|> counts as none


@dataclass(frozen=True)
class Manifest:
    """What the token files of a folder hold, and how to recognise them."""

    version: int
    token_type: str
    vocab_size: int
    end_of_text_id: int
    corpus_sha256: str
    tokenizer_sha256: str
    parts: dict[str, Part]
    files: dict[str, FileRecord]


def write_manifest(
    directory: Path,
    *,
    token_type: str,
    vocab_size: int,
    end_of_text_id: int,
    corpus_sha256: str,
    tokenizer_sha256: str,
    parts: dict[str, Part],
) -> Manifest:
    """Describe every token file in a folder; return the manifest.

    Raises:
        InputError: A part holds a token id that the vocabulary does not have. The
            network would fail on it, so no manifest says that the file is fit to read.
    """
    for name, part in parts.items():
        if part.tokens:
            path = directory / f"{name}.bin"
            largest = largest_id(map_tokens(path, token_type=token_type))
            if largest >= vocab_size:
                raise InputError(
                    f"{path.name} would hold the token id {largest:,}, but the "
                    f"vocabulary has {vocab_size:,}"
                )
    manifest = Manifest(
        version=MANIFEST_VERSION,
        token_type=token_type,
        vocab_size=vocab_size,
        end_of_text_id=end_of_text_id,
        corpus_sha256=corpus_sha256,
        tokenizer_sha256=tokenizer_sha256,
        parts=parts,
        files={
            path.name: FileRecord(path.stat().st_size, sha256_of(path))
            for path in sorted(directory.iterdir())
            if path.is_file()
        },
    )
    write_json(directory / "manifest.json", asdict(manifest))
    return manifest


def read_manifest(directory: Path, *, made_by: str) -> Manifest:
    """Read a manifest and check every file that it names, to the last bit.

    Token ids are not checked again: the digest says that they are the ones that were
    checked when the manifest was written.

    Args:
        directory: The folder of the manifest and the files.
        made_by: The stage to run again when something is wrong.

    Raises:
        InputError: The manifest or a file is missing or damaged.
    """
    path = directory / "manifest.json"
    advice = f"run `dvc repro --force --single-item {made_by}`"
    try:
        manifest = read_json(path, Manifest, version=MANIFEST_VERSION, advice=advice)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run `dvc repro {made_by}`") from None
    if contradiction := _contradiction(manifest):
        raise InputError(f"{path} is damaged ({contradiction}); {advice}")

    for name, record in manifest.files.items():
        file = directory / name
        if not file.is_file():
            raise InputError(f"{file} is missing: {advice}")
        if (size := file.stat().st_size) != record.bytes:
            raise InputError(
                f"{file} is damaged: {size:,} bytes instead of {record.bytes:,}; "
                f"{advice}"
            )
        if sha256_of(file) != record.sha256:
            raise InputError(
                f"{file} is damaged: its contents are not what {made_by} wrote; "
                f"{advice}"
            )
    return manifest


def _contradiction(manifest: Manifest) -> str | None:
    """Return what in a manifest cannot be true, or None."""
    if manifest.token_type != token_type_for(manifest.vocab_size):
        return f"{manifest.token_type} for a vocabulary of {manifest.vocab_size:,}"
    for name in manifest.files:
        if Path(name).name != name:
            return f"{name!r} is not a plain file name"
    for name, part in manifest.parts.items():
        record = manifest.files.get(f"{name}.bin")
        size = part.tokens * TOKEN_TYPES[manifest.token_type].itemsize
        if record is None or record.bytes != size:
            return f"{name}.bin cannot hold {part.tokens:,} tokens"
    return None


def open_tokens(directory: Path, manifest: Manifest, part: str) -> TokenIds:
    """Map the token file of a part into memory, read-only.

    Raises:
        InputError: The file holds no token, or the manifest does not name it.
    """
    path = directory / f"{part}.bin"
    if part not in manifest.parts:
        raise InputError(
            f"{directory / 'manifest.json'} names no {path.name}: run `dvc repro`"
        )
    if not manifest.parts[part].tokens:
        raise InputError(f"{path} holds no tokens")
    return map_tokens(path, token_type=manifest.token_type)


def read_ends(directory: Path, manifest: Manifest) -> NDArray[np.uint64]:
    """Read where in tokens.bin each document ends: one past its last token.

    Raises:
        InputError: The ends do not fit the documents and tokens of the manifest.
    """
    path = directory / "ends.bin"
    whole = manifest.parts["tokens"]
    ends = np.fromfile(path, dtype=END_TYPE)
    # A document has its end of text at least, so that each ends after the last one.
    lengths = np.diff(ends.astype(np.int64), prepend=0)
    if (len(ends), lengths.sum()) != (whole.documents, whole.tokens) or (
        lengths < 1
    ).any():
        raise InputError(
            f"{path} does not say where {whole.documents:,} documents end: run "
            f"`dvc repro --force --single-item tokenize`"
        )
    return ends


def check_tokenizer(manifest: Manifest, tokenizer_directory: Path) -> None:
    """Raise an error if another tokenizer made the token ids.

    Raises:
        InputError: The tokenizer is missing, or another one.
    """
    try:
        digest = tokenizer_digest(tokenizer_directory)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is missing: run `dvc repro`") from None
    if digest != manifest.tokenizer_sha256:
        raise InputError(
            f"the tokenizer in {tokenizer_directory} is not the one that made these "
            f"token ids: run `dvc repro`"
        )


def tokenizer_digest(directory: Path) -> str:
    """Return the SHA-256 digest of the file that decides the token ids."""
    return sha256_of(directory / "tokenizer.json")
