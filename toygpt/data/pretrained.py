"""Pretrained tokenizers: GPT-2's, for instance, from the hub or a folder."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, processors

from toygpt.data.hub_client import ask_hub, check_digest, hub_client
from toygpt.data.tokenizer import (
    byte_alphabet,
    bytes_of_tokens,
    treat_markers_as_text,
)
from toygpt.pipeline.errors import InputError, first_line

SETTING = "tokenize.tokenizer in params.yaml"
# Texts that normalizers, splitters of words and prefixes of a space would change.
HARD_TEXTS = [
    "".join(map(chr, range(0x2500))),
    "word",
    " word  and   word\n\n\ttab \r\n",
    "Cafe\u0301 \u212b \ufb01 \uff21 \u0130 \U0001f469\u200d\U0001f680",
]
# Only these: a repository may hold a model of gigabytes as well.
TOKENIZER_FILES = ["*.json", "merges.txt"]


def load_pretrained_tokenizer(name: str) -> tuple[Tokenizer, str]:
    """Load a pretrained tokenizer, and the token by which it ends a text.

    Args:
        name: A folder, or a name on the Hugging Face hub (`gpt2`), with a branch, tag
            or commit after an `@` unless it shall be the newest.

    Raises:
        InputError: There is no such tokenizer, or it does not keep every byte.
    """
    what = f"the tokenizer {name!r} ({SETTING})"
    folder = Path(name) if Path(name).is_dir() else _fetch(name)
    try:
        pretrained = _load(folder)
        tokenizer = Tokenizer.from_str(pretrained.backend_tokenizer.to_str())
    except Exception as error:  # of many kinds, with a message of their own
        raise InputError(f"cannot load {what}: {first_line(error)}") from None

    if pretrained.eos_token is None:
        raise InputError(f"{what} has no token that ends a text (eos_token)")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if isinstance(tokenizer.model, models.BPE):
        tokenizer.model.dropout = None  # the same text has the same tokens, always
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)  # adds nothing
    treat_markers_as_text(tokenizer)
    if not keeps_every_byte(tokenizer):
        raise InputError(
            f"{what} does not keep every byte of a text, as GPT-2's does: bits per "
            f"byte could not be computed"
        )
    return tokenizer, str(pretrained.eos_token)


def keeps_every_byte(tokenizer: Tokenizer) -> bool:
    """Return whether tokens, and their bytes, add up to the text they came from.

    It is tried with texts for which that might not be so.
    """
    if byte_alphabet().keys() - tokenizer.get_vocab().keys():
        return False
    if tokenizer.normalizer is not None:
        return False
    try:
        pieces = bytes_of_tokens(tokenizer)
    except KeyError:  # a token has a character that does not stand for a byte
        return False
    added = tokenizer.get_added_tokens_decoder().values()
    texts = [*HARD_TEXTS, *(f"one  {token.content}  two" for token in added)]
    for text in texts:
        token_ids = tokenizer.encode(text).ids
        if b"".join(pieces[token_id] for token_id in token_ids) != text.encode():
            return False
        if tokenizer.decode(token_ids, skip_special_tokens=False) != text:
            return False
    return True


def _fetch(name: str) -> Path:
    """Return the folder of the hub's cache that holds a tokenizer's files."""
    client = hub_client()
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()  # a few small files
    repository, _, revision = name.partition("@")
    folder = ask_hub(
        lambda: client.snapshot_download(
            repository, revision=revision or "main", allow_patterns=TOKENIZER_FILES
        ),
        what=f"the tokenizer {name!r}",
        settings=SETTING,
    )
    for file in folder.rglob("*"):
        if file.is_file():
            check_digest(file, f"{file.name} of the tokenizer {name!r} ({SETTING})")
    return folder


def _load(folder: Path) -> Any:
    # Slow to import, and needed here alone.
    from transformers import AutoTokenizer, GPT2Tokenizer

    # Code that comes with a tokenizer is never run.
    options = {"local_files_only": True, "trust_remote_code": False}
    if (folder / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(folder, **options)
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).exists():
            raise FileNotFoundError(f"there is no {name}")
    return GPT2Tokenizer.from_pretrained(folder, **options)
