"""Token ids on disk: flat binary files, and a manifest that vouches for them.

`tokens.bin` is headerless: token after token, little-endian, so that a memory map reads
it in place. Where documents end, and how many bytes every file has, stands beside it.
"""

import json
from collections.abc import Iterable, Iterator, Sized
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import sha256_of, write_json

MANIFEST_VERSION = 1
TOKEN_TYPES: dict[str, np.dtype[np.unsignedinteger[Any]]] = {
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
}
END_TYPE = np.dtype("<u8")
# Tokens that are looked at together where a whole file would be too many.
TOKENS_AT_ONCE = 8_000_000
# So many are worth a call of the operating system.
TOKENS_WRITTEN_AT_ONCE = 1_000_000

TokenIds = NDArray[np.unsignedinteger[Any]]
AnySized = TypeVar("AnySized", bound=Sized)


def token_type_for(vocab_size: int) -> str:
    """Return the name of the smallest type that holds every token id."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


@dataclass(frozen=True)
class FileRecord:
    """What a file must be for its contents to be trusted."""

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
    """What the token files of a directory hold, and how to know them unchanged."""

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
    """Vouch for every token file that now lies in `directory`; return the manifest."""
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
            for path in sorted(directory.glob("*.bin"))
        },
    )
    write_json(directory / "manifest.json", asdict(manifest))
    return manifest


def read_manifest(directory: Path, *, made_by: str) -> Manifest:
    """Read a manifest and check every file that it names, to the last bit.

    Args:
        directory: Where the manifest and the files lie.
        made_by: The stage to run again when something is wrong.

    Raises:
        InputError: A file is missing, has another size, or another digest; or it holds
            what no tokenizer of that vocabulary wrote.
    """
    path = directory / "manifest.json"
    remedy = f"run `dvc repro --force --single-item {made_by}`"
    try:
        manifest = _parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run `dvc repro {made_by}`") from None
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as e:
        raise InputError(f"{path} is no manifest ({e!r}): {remedy}") from None

    for name, record in manifest.files.items():
        file = directory / name
        if not file.is_file():
            raise InputError(f"{file} is missing: {remedy}")
        if (size := file.stat().st_size) != record.bytes:
            raise InputError(
                f"{file} is damaged: {size:,} bytes instead of {record.bytes:,}; "
                f"{remedy}"
            )
        if sha256_of(file) != record.sha256:
            raise InputError(
                f"{file} is damaged: its contents are not what {made_by} wrote; "
                f"{remedy}"
            )
    for name, part in manifest.parts.items():
        if part.tokens and (largest := _largest_id(directory, manifest, name)) >= (
            manifest.vocab_size
        ):
            raise InputError(
                f"{directory / name}.bin holds the token id {largest:,}, but the "
                f"vocabulary has {manifest.vocab_size:,}: {remedy}"
            )
    return manifest


def _largest_id(directory: Path, manifest: Manifest, part: str) -> int:
    """Return the largest token id of a file that may not fit into memory."""
    tokens = open_tokens(directory, manifest, part)
    return max(
        int(tokens[first : first + TOKENS_AT_ONCE].max())
        for first in range(0, len(tokens), TOKENS_AT_ONCE)
    )


def check_tokenizer(manifest: Manifest, tokenizer_directory: Path) -> None:
    """Refuse token ids that another tokenizer made.

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
    """Return the SHA-256 digest of what decides the token ids."""
    return sha256_of(directory / "tokenizer.json")


def _parse(values: Any) -> Manifest:
    """Return a manifest whose every value has the type that it should have."""
    if values["version"] != MANIFEST_VERSION:
        raise ValueError(
            f"version {values['version']}, this toyGPT reads {MANIFEST_VERSION}"
        )
    if values["token_type"] not in TOKEN_TYPES:
        raise ValueError(f"unknown token type {values['token_type']!r}")
    for name in values["files"]:
        if Path(name).name != name:
            raise ValueError(f"{name!r} is no plain file name")
    for part in values["parts"].values():
        _check_types(Part, part)
    for file in values["files"].values():
        _check_types(FileRecord, file)
    _check_types(Manifest, values)
    parts = {name: Part(**part) for name, part in values["parts"].items()}
    files = {name: FileRecord(**file) for name, file in values["files"].items()}
    if values["token_type"] != token_type_for(values["vocab_size"]):
        raise ValueError(
            f"{values['token_type']} for a vocabulary of {values['vocab_size']:,}"
        )
    for name, part in parts.items():
        size = part.tokens * TOKEN_TYPES[values["token_type"]].itemsize
        if files[f"{name}.bin"].bytes != size:
            raise ValueError(f"{name}.bin cannot hold {part.tokens:,} tokens")
    return Manifest(**values | {"parts": parts, "files": files})


def _check_types(record: type[Part | FileRecord | Manifest], values: Any) -> None:
    for field in fields(record):
        expected = field.type if isinstance(field.type, type) else dict
        if not isinstance(values[field.name], expected):
            raise TypeError(f"{field.name}: {values[field.name]!r}")


def open_tokens(directory: Path, manifest: Manifest, part: str) -> TokenIds:
    """Map a token file into memory; only what is looked at is read.

    Raises:
        InputError: The file holds no token, or the manifest does not know it.
    """
    path = directory / f"{part}.bin"
    if part not in manifest.parts:
        raise InputError(
            f"{directory / 'manifest.json'} names no {path.name}: run `dvc repro`"
        )
    if not manifest.parts[part].tokens:
        raise InputError(f"{path} holds no tokens")
    return np.memmap(path, dtype=TOKEN_TYPES[manifest.token_type], mode="r")


def read_ends(directory: Path, manifest: Manifest) -> NDArray[np.uint64]:
    """Read where in tokens.bin each document ends: one past its last token.

    Raises:
        InputError: These are not the ends of that many documents.
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


def count_tokens(tokens: TokenIds, vocab_size: int) -> NDArray[np.int64]:
    """Return how often each token id occurs."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for first in range(0, len(tokens), TOKENS_AT_ONCE):
        piece = tokens[first : first + TOKENS_AT_ONCE]
        counts += np.bincount(piece, minlength=vocab_size)
    return counts


def write_tokens(
    documents: Iterable[TokenIds], directory: Path, *, token_type: str
) -> tuple[int, int]:
    """Write tokens.bin and ends.bin, many documents at a time.

    Returns:
        How many tokens and how many documents were written.
    """
    num_tokens = num_documents = 0
    with (
        (directory / "tokens.bin").open("wb") as tokens,
        (directory / "ends.bin").open("wb") as ends,
    ):
        for together in in_portions(documents, size=TOKENS_WRITTEN_AT_ONCE):
            token_ids = np.concatenate(together, dtype=TOKEN_TYPES[token_type])
            lengths = np.array([len(document) for document in together])
            tokens.write(token_ids.data)
            ends.write((num_tokens + lengths.cumsum()).astype(END_TYPE).data)
            num_tokens += len(token_ids)
            num_documents += len(together)
    return num_tokens, num_documents


def in_portions(items: Iterable[AnySized], *, size: int) -> Iterator[list[AnySized]]:
    """Yield items in lists that come to `size` together; the last may be shorter."""
    portion: list[AnySized] = []
    length = 0
    for item in items:
        portion.append(item)
        length += len(item)
        if length >= size:
            yield portion
            portion, length = [], 0
    if portion:
        yield portion
