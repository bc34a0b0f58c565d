"""The manifest of a folder of token files: what the files hold, and their digests.

A stage reads token files only through the manifest, so that a file that was damaged,
exchanged or written by another version is found before it becomes a wrong result.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toygpt.data.file_records import (
    FileRecord,
    check_digests,
    check_names_and_sizes,
)
from toygpt.data.shards import digest_of_shards, shards_named
from toygpt.data.token_files import (
    END_TYPE,
    TOKEN_TYPES,
    JoinedTokens,
    TokenIds,
    Tokens,
    allow_open_files,
    largest_id,
    map_tokens,
    token_type_for,
)
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import sha256_of, write_json
from toygpt.pipeline.json_file import read_json

MANIFEST_VERSION = 1


@dataclass(frozen=True)
class Part:
    """How much text the token files of all shards hold together."""

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

    def files_of(self, part: str) -> list[str]:
        """Return the names of the token files of a part: one for each shard."""
        shards = shards_named(self.files, f"{part}.bin")
        return [shard.name(f"{part}.bin") for shard in shards]

    def shard_sizes(self, part: str) -> list[int]:
        """Return how many tokens of a part each shard holds."""
        item_size = TOKEN_TYPES[self.token_type].itemsize
        return [self.files[name].bytes // item_size for name in self.files_of(part)]

    def digest_of(self, part: str) -> str:
        """Return the digest of all token files of a part."""
        return digest_of_shards([self.files[n].sha256 for n in self.files_of(part)])


def write_manifest(
    directory: Path,
    *,
    token_type: str,
    vocab_size: int,
    end_of_text_id: int,
    corpus_sha256: str,
    tokenizer_sha256: str,
    parts: dict[str, Part],
    files: dict[str, FileRecord],
) -> Manifest:
    """Describe the token files of a folder, which were checked; return the manifest."""
    manifest = Manifest(
        version=MANIFEST_VERSION,
        token_type=token_type,
        vocab_size=vocab_size,
        end_of_text_id=end_of_text_id,
        corpus_sha256=corpus_sha256,
        tokenizer_sha256=tokenizer_sha256,
        parts=parts,
        files=files,
    )
    write_json(directory / "manifest.json", asdict(manifest))
    return manifest


def check_ids(path: Path, *, token_type: str, vocab_size: int) -> None:
    """Raise an error if a file holds a token id that the vocabulary does not have.

    The network would fail on it, so no manifest says that the file is fit to read.

    Raises:
        InputError: The file holds such an id.
    """
    largest = largest_id(map_tokens(path, token_type=token_type))
    if largest >= vocab_size:
        raise InputError(
            f"{path.name} would hold the token id {largest:,}, but the vocabulary has "
            f"{vocab_size:,}"
        )


def read_manifest(
    directory: Path, *, made_by: str, share: tuple[int, int] = (0, 1)
) -> Manifest:
    """Read a manifest and check every file that it names, to the last bit.

    Token ids are not checked again: the digest says that they are the ones that were
    checked when the manifest was written.

    Args:
        directory: The folder of the manifest and the files.
        made_by: The stage to run again when something is wrong.
        share: `(number, of)`: compare the digest of every `of`-th file alone, beginning
            with `number`, where other processes compare the others.

    Raises:
        InputError: The manifest or a file is missing or damaged.
    """
    manifest = open_manifest(directory, made_by=made_by)
    check_digests(directory, manifest.files, made_by=made_by, share=share)
    return manifest


def open_manifest(directory: Path, *, made_by: str) -> Manifest:
    """Read a manifest and compare the names and sizes of the files alone.

    Raises:
        InputError: The manifest or a file is missing, or has another size.
    """
    path = directory / "manifest.json"
    advice = f"run `dvc repro --force --single-item {made_by}`"
    try:
        manifest = read_json(path, Manifest, version=MANIFEST_VERSION, advice=advice)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run `dvc repro {made_by}`") from None
    if contradiction := _contradiction(manifest):
        raise InputError(f"{path} is damaged ({contradiction}); {advice}")

    check_names_and_sizes(directory, manifest.files, made_by=made_by)
    return manifest


def _contradiction(manifest: Manifest) -> str | None:
    """Return what in a manifest cannot be true, or None."""
    if manifest.token_type != token_type_for(manifest.vocab_size):
        return f"{manifest.token_type} for a vocabulary of {manifest.vocab_size:,}"
    if manifest.end_of_text_id >= manifest.vocab_size:
        return f"end_of_text_id {manifest.end_of_text_id:,} is outside the vocabulary"
    for name in manifest.files:
        if Path(name).name != name:
            return f"{name!r} is not a plain file name"
    for name, part in manifest.parts.items():
        try:
            files = manifest.files_of(name)
        except InputError as error:
            return str(error)
        size = part.tokens * TOKEN_TYPES[manifest.token_type].itemsize
        if not files or sum(manifest.files[file].bytes for file in files) != size:
            return f"{name}.bin cannot hold {part.tokens:,} tokens"
    return None


def open_shards(directory: Path, manifest: Manifest, part: str) -> list[TokenIds]:
    """Map the token files of a part into memory, read-only: one for each shard.

    Raises:
        InputError: The manifest does not name the part.
    """
    if part not in manifest.parts:
        raise InputError(
            f"{directory / 'manifest.json'} names no tokens of {part}: run `dvc repro`"
        )
    files = manifest.files_of(part)
    allow_open_files(len(files))
    return [
        map_tokens(directory / file, token_type=manifest.token_type) for file in files
    ]


def open_tokens(directory: Path, manifest: Manifest, part: str) -> Tokens:
    """Map the tokens of a part into memory, read-only, as if they were in one file.

    Raises:
        InputError: The part holds no token, or the manifest does not name it.
    """
    shards = open_shards(directory, manifest, part)
    if not manifest.parts[part].tokens:
        files = named(directory, manifest.files_of(part))
        raise InputError(f"there are no tokens in {files}")
    return shards[0] if len(shards) == 1 else JoinedTokens(shards)


def named(directory: Path, files: Sequence[str]) -> str:
    """Return the name of a file, or of the first and the last of several."""
    names = [str(directory / name) for name in files]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def read_ends(directory: Path, manifest: Manifest) -> NDArray[np.int64]:
    """Read where in the tokens of all shards each document ends: one past its last.

    Raises:
        InputError: The ends do not fit the documents and tokens of the manifest.
    """
    whole = manifest.parts["tokens"]
    lengths = [
        np.diff(
            np.fromfile(directory / shard.name("ends.bin"), END_TYPE).astype(np.int64),
            prepend=0,
        )
        for shard in shards_named(manifest.files, "tokens.bin")
    ]
    ends = np.concatenate(lengths).cumsum()
    # A document has its end of text at least.
    if (
        len(ends) != whole.documents
        or [int(of_shard.sum()) for of_shard in lengths]
        != manifest.shard_sizes("tokens")
        or any((of_shard < 1).any() for of_shard in lengths)
    ):
        files = named(directory, manifest.files_of("ends"))
        raise InputError(
            f"the numbers in {files} are not where {whole.documents:,} documents end: "
            f"run `dvc repro --force --single-item tokenize`"
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
