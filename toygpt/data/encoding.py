"""Text to token ids, many times as fast as `tokenizers` and with the very same ids.

gigatoken (Rød, 2026, https://github.com/marcelroed/gigatoken) finds words without
regular expressions and remembers their tokens. But it is young, and what it does not
know of a tokenizer it may ignore without a word. So it encodes only for tokenizers of
GPT-2's kind, and only after it has given the ids of `tokenizers` for texts that are
hard and for the first of the corpus. Otherwise `tokenizers` encodes:
docs/decisions/encoding.md.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from toygpt.data.streaming import batched
from toygpt.data.tokenizer import cut_before_blanks, cuts_words_as_gpt2
from toygpt.pipeline.errors import first_line

TokenIds = NDArray[np.uint32]

DOCUMENTS_TO_TRY = 8
CHARACTERS_TO_TRY = 20_000  # of each
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

BLANKS = " \t\n\r\v\f\x1c\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"
HARD_TEXTS = [
    "",
    *BLANKS,
    *(f"a{blank}{blank}b {blank} {blank}1{blank}" for blank in BLANKS),
    # Each of many characters behind a letter, alone, and between digits.
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
    """Encodes with gigatoken, or, where that would not do, with tokenizers.

    Attributes:
        is_fast: Whether it is gigatoken.
    """

    def __init__(self, tokenizer: Tokenizer, first_texts: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        self._can_cut = cuts_words_as_gpt2(tokenizer)
        self._encode_fast: Callable[[str], TokenIds] | None = None
        reason = self._try_fast(first_texts)
        if reason is not None:
            self._tell(reason)

    @property
    def is_fast(self) -> bool:
        """Whether it is gigatoken that encodes."""
        return self._encode_fast is not None

    def encode(self, texts: Iterable[str]) -> Iterator[TokenIds]:
        """Yield the token ids of each text.

        A long text is encoded piece by piece, which changes nothing but the memory it
        takes.
        """
        cut_texts = [
            cut_before_blanks(text) if self._can_cut else [text] for text in texts
        ]
        encoded = self._encode_pieces(chain.from_iterable(cut_texts))
        for pieces in cut_texts:
            parts = list(islice(encoded, len(pieces)))
            yield parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _encode_pieces(self, texts: Iterable[str]) -> Iterator[TokenIds]:
        rest = iter(texts)
        while self._encode_fast is not None and (text := next(rest, None)) is not None:
            try:
                token_ids = self._encode_fast(text)
            except BaseException as error:
                raise_if_meant(error)
                self._encode_fast = None
                self._tell(f"gigatoken failed ({first_line(error)})")
                rest = chain([text], rest)
            else:
                yield token_ids
        yield from encode_with_tokenizers(self._tokenizer, rest)

    def _try_fast(self, first_texts: Iterable[str]) -> str | None:
        """Take the fast way if it can be taken, else say why not."""
        if not is_plain(self._tokenizer):
            return "this tokenizer is not of GPT-2's kind"
        texts = [*HARD_TEXTS, *(text[:CHARACTERS_TO_TRY] for text in first_texts)]
        try:
            encode_fast = fast_encoder(self._tokenizer)
            found = [encode_fast(text) for text in texts]
        except BaseException as error:
            raise_if_meant(error)
            return f"gigatoken cannot take this tokenizer ({first_line(error)})"
        expected = encode_with_tokenizers(self._tokenizer, texts)
        if not all(map(np.array_equal, found, expected)):
            return "gigatoken gave other token ids in a trial"
        self._encode_fast = encode_fast
        return None

    @staticmethod
    def _tell(reason: str) -> None:
        print(f"encoding with tokenizers, which is slower: {reason}", file=sys.stderr)


def is_plain(tokenizer: Tokenizer) -> bool:
    """Say whether a tokenizer is byte-level BPE as GPT-2's is, without anything more.

    gigatoken ignores some of what else a tokenizer can do.
    """
    told = json.loads(tokenizer.to_str())
    model = told["model"]
    return (
        model["type"] == "BPE"
        and not any(model.get(option) for option in OPTIONS_OF_BPE)
        and told["truncation"] is None
        and cuts_words_as_gpt2(tokenizer)
    )


def fast_encoder(tokenizer: Tokenizer) -> Callable[[str], TokenIds]:
    """Return what gives the token ids of a text, made by gigatoken."""
    import gigatoken

    # Added tokens are left out: what looks like one in a text is plain text.
    told = json.loads(tokenizer.to_str()) | {"added_tokens": []}
    encode: Callable[[str], TokenIds] = gigatoken.Tokenizer.from_json(
        json.dumps(told)
    ).encode
    return encode


def encode_with_tokenizers(
    tokenizer: Tokenizer, texts: Iterable[str]
) -> Iterator[TokenIds]:
    """Yield the token ids of each text, some texts at a time."""
    for batch in batched(texts, size=CHARACTERS_AT_ONCE):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield np.array(encoding.ids, dtype=np.uint32)


def raise_if_meant(error: BaseException) -> None:
    """Raise what is no failure of gigatoken, whose panics are no `Exception` either."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)):
        raise error
