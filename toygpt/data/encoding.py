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

from toygpt.data.token_files import batched
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

# Texts in which two encoders would differ, if they differ anywhere.
SPACES = " \t\n\r\v\f\x1c\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"
HARD_TEXTS = [
    "",
    *SPACES,
    *(f"a{space}{space}b {space} {space}1{space}" for space in SPACES),
    # Each of many characters after a letter, alone, and between digits.
    *(
        "".join(f"a{chr(code)} {chr(code)}b 1{chr(code)}2" for code in codes)
        for codes in (range(0x3100), range(0xA000, 0xA800), range(0xF900, 0x10000))
    ),
    *(
        "".join(f"x{chr(code)}y " for code in codes)
        for codes in (range(0x10000, 0x10FFFF, 997), range(0x1F300, 0x1FB00))
    ),
    "it's I'm you're they've we'll he'd IT'S 'tis ''s 's's rock'n'roll '\u2019s",
    "1 12 123 1234567890 3.14159e-10 0x7fFF ١٢٣ ४५६ ½ Ⅷ ² 1st",
    "\U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea\U0001f1eb \u2764\ufe0f",
    "\U0001f44d\U0001f3fd 👍🏽👍",
    "汉字没有空格、日本語もそうです。한국어는 있다",
    "שלום עולם مرحبا بالعالم \u202eright to left\u202c",
    "e\u0301 \u00e9 \u1e9b\u0323 \u0958 \u0e01\u0e33 Z\u0351\u036b\u0343 \u0345",
    "\x00\x01\x1b[0m\x7f\x80\x9f \ufffd \ufdd0 \uffff \U0010ffff",
    "<|endoftext|>a<|endoftext|> <|endoftext|",
    "<s></s>[CLS][PAD]<unk><pad><|im_start|>",
    "x" * 3_000, "0" * 3_000, " " * 3_000, "\n" * 3_000, "=" * 3_000, "字" * 1_000,
    "abcdefghijklmnopqrstuvwxyz" * 100, "ACGTTGCA" * 300, "ab " * 1_000,
    "def f(self):\n\n\n        return {'a': [1],\t\"b\": None}  \n   \r\n\r\n  # end  ",
]  # fmt: skip


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
