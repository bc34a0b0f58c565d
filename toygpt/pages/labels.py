r"""Tokens as a reader sees them: a label for each alone, and characters in a text.

A token is a string of bytes. It may be invisible, a part of a character, or turn the
text around it: a page shows what it is.

>>> [label_of(piece) for piece in (b" the", b"\n\n\t", b"\xc3", "\u202e".encode())]
['␣the', '⏎⏎⇥', '\\xc3', '\\u202e']
"""

import codecs
import re
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer

from toygpt.data.tokenizer import bytes_of_tokens

SYMBOLS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
# As they are in a running text: newlines, and what joins letters or emoji.
PLAIN = {"\n", "\t", "\N{ZERO WIDTH JOINER}", "\N{ZERO WIDTH NON-JOINER}"}


def pieces_of(tokenizer: Tokenizer) -> list[bytes]:
    """Return the bytes of each token id; of a special token, those of its name."""
    return [
        piece or str(tokenizer.id_to_token(token_id)).encode()
        for token_id, piece in enumerate(bytes_of_tokens(tokenizer))
    ]


def label_of(piece: bytes) -> str:
    """Return a token so that all of it can be seen, on one line."""
    text = piece.decode("utf-8", errors="backslashreplace")
    seen = "".join(SYMBOLS.get(char) or escaped(char) for char in text)
    return re.sub("␣{3,}", lambda run: f"␣\N{MULTIPLICATION SIGN}{len(run[0])}", seen)


def characters_of(pieces: Sequence[bytes]) -> Iterator[tuple[int, str]]:
    r"""Yield a running text as groups of tokens: how many, and their text.

    A group is one token, or as many as it takes until a character is whole.

    >>> list(characters_of([b"na", b"\xc3", b"\xaf", b"ve", b"\xff"]))
    [(1, 'na'), (2, 'ï'), (1, 've'), (1, '\\xff')]
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
    size, text = 0, ""
    for number, piece in enumerate(pieces, start=1):
        size, text = size + 1, text + decoder.decode(piece, number == len(pieces))
        if not decoder.getstate()[0]:  # bytes that wait for the rest of a character
            yield size, "".join(c if c in PLAIN else escaped(c) for c in text)
            size, text = 0, ""


def escaped(text: str) -> str:
    """Return a text whose every character is visible."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
