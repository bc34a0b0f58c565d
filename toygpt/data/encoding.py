"""Text to token ids, many times as fast as `tokenizers` and with the very same ids.

gigatoken (Rød, 2026, https://github.com/marcelroed/gigatoken) finds words without
regular expressions and remembers their tokens. But it is young, and it silently ignores
the options of a tokenizer that it does not know. So it encodes only for tokenizers of
GPT-2's kind, and only after it has given the ids of `tokenizers` for texts that are
hard and for the first of the corpus. Otherwise `tokenizers` encodes:
docs/decisions/data.md.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from toygpt.data.hard_texts import HARD_TEXTS
from toygpt.data.streaming import batched
from toygpt.data.tokenizer import cut_before_spaces, cuts_words_as_gpt2
from toygpt.pipeline.errors import first_line

TokenIds = NDArray[np.uint32]
EncodeText = Callable[[str], TokenIds]

DOCUMENTS_TO_TRY = 8
CHARACTERS_TO_TRY = 20_000  # of each document
# What `tokenizers` is given at once; it needs a hundred times the memory of the text.
CHARACTERS_AT_ONCE = 1_000_000

OPTIONS_OF_BPE = [
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
]


class GigatokenError(Exception):
    """gigatoken cannot encode, or not with the ids of `tokenizers`."""


def encode_documents(
    tokenizer: Tokenizer, texts: Iterable[list[str]], *, end_of_text_id: int
) -> Iterator[TokenIds]:
    """Yield the token ids of each text, the end of text appended."""
    end = np.array([end_of_text_id], dtype=np.uint32)
    encoder: Encoder | None = None
    for batch in texts:
        if encoder is None:
            encoder = Encoder(tokenizer, batch[:DOCUMENTS_TO_TRY])
        for token_ids in encoder.encode(batch):
            yield np.concatenate([token_ids, end])


class Encoder:
    """An encoder that uses gigatoken if it can, and otherwise tokenizers."""

    def __init__(self, tokenizer: Tokenizer, first_texts: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        self._can_cut = cuts_words_as_gpt2(tokenizer)
        self._encode_fast: EncodeText | None = None
        try:
            self._encode_fast = tried_encoder(tokenizer, first_texts)
        except GigatokenError as error:
            self._continue_without_gigatoken(error)

    @property
    def is_fast(self) -> bool:
        """Whether gigatoken encodes."""
        return self._encode_fast is not None

    def encode(self, texts: Iterable[str]) -> Iterator[TokenIds]:
        """Yield the token ids of each text.

        A long text is encoded piece by piece, which changes the memory it takes alone.
        """
        cut_texts = [
            cut_before_spaces(text) if self._can_cut else [text] for text in texts
        ]
        encoded = self._encode_pieces(chain.from_iterable(cut_texts))
        for pieces in cut_texts:
            parts = list(islice(encoded, len(pieces)))
            yield parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _encode_pieces(self, pieces: Iterable[str]) -> Iterator[TokenIds]:
        rest = iter(pieces)
        while self._encode_fast is not None and (text := next(rest, None)) is not None:
            try:
                yield self._encode_fast(text)
            except GigatokenError as error:
                self._continue_without_gigatoken(error)
                rest = chain([text], rest)
        yield from encode_with_tokenizers(self._tokenizer, rest)

    def _continue_without_gigatoken(self, error: GigatokenError) -> None:
        self._encode_fast = None
        print(f"encoding with tokenizers, which is slower: {error}", file=sys.stderr)


def tried_encoder(tokenizer: Tokenizer, first_texts: Iterable[str]) -> EncodeText:
    """Return a fast encoder that has passed a trial.

    Raises:
        GigatokenError: It cannot encode, or has given other ids than tokenizers.
    """
    if not is_plain(tokenizer):
        raise GigatokenError("this tokenizer is not of GPT-2's kind")
    encode = fast_encoder(tokenizer)
    texts = [*HARD_TEXTS, *(text[:CHARACTERS_TO_TRY] for text in first_texts)]
    expected = encode_with_tokenizers(tokenizer, texts)
    if not all(map(np.array_equal, map(encode, texts), expected)):
        raise GigatokenError("gigatoken gave other token ids in a trial")
    return encode


def is_plain(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer is byte-level BPE as GPT-2's, with no other option."""
    settings = json.loads(tokenizer.to_str())
    model = settings["model"]
    return (
        model["type"] == "BPE"
        and not any(model.get(option) for option in OPTIONS_OF_BPE)
        and settings["truncation"] is None
        and cuts_words_as_gpt2(tokenizer)
    )


def fast_encoder(tokenizer: Tokenizer) -> EncodeText:
    """Return a function that encodes with gigatoken, or raises GigatokenError."""
    # Without added tokens: a marker in a text is plain text.
    settings = json.loads(tokenizer.to_str()) | {"added_tokens": []}
    with _gigatoken_errors():
        import gigatoken

        encode = gigatoken.Tokenizer.from_json(json.dumps(settings)).encode

    def encode_text(text: str) -> TokenIds:
        with _gigatoken_errors():
            return encode(text)

    return encode_text


@contextmanager
def _gigatoken_errors() -> Iterator[None]:
    """Turn every failure into a GigatokenError: a panic is not even an `Exception`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise GigatokenError(f"gigatoken failed ({first_line(error)})") from None


def encode_with_tokenizers(
    tokenizer: Tokenizer, texts: Iterable[str]
) -> Iterator[TokenIds]:
    """Yield the token ids of each text, some texts at a time."""
    for batch in batched(texts, size=CHARACTERS_AT_ONCE):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield np.array(encoding.ids, dtype=np.uint32)
