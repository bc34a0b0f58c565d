"""Bytes of a file to text: UTF-8, or the encoding that a byte order mark names."""

import codecs
import io
import unicodedata
from typing import BinaryIO, TextIO

from toygpt.data.inventory import LeftOutError, Reason

# Bytes at the beginning of a file: enough to see what it is. Git looks at as many.
HEAD_BYTES = 8_000

# Longer ones first: UTF-32's begins with UTF-16's.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


def encoding_of(head: bytes) -> str:
    """Return the encoding of a text, by its first bytes.

    Raises:
        LeftOutError: The bytes are not text, or UTF-16 without a byte order mark.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        if guess := _guess_utf16(head):
            raise LeftOutError(Reason.UNMARKED_UTF16, guess)
        raise LeftOutError(Reason.BINARY)
    return "utf-8"


def _guess_utf16(head: bytes) -> str | None:
    """Return which kind of UTF-16 a text without a byte order mark is, or None.

    One byte of two is zero in most alphabets' texts, or in their spaces at least.
    """
    head = head[: len(head) // 2 * 2]
    zeros = [head[0::2].count(0), head[1::2].count(0)]
    if min(zeros) or max(zeros) * 20 < len(head):
        return None
    guess = "utf-16le" if zeros[1] else "utf-16be"
    # The head may end within a character of two units.
    text = head.decode(guess, errors="ignore")
    is_text = all(
        char in "\t\n\r\f" or unicodedata.category(char) not in ("Cc", "Cn", "Co")
        for char in text
    )
    return guess if is_text else None


def as_utf8(content: bytes) -> bytes:
    """Return a text in UTF-8, from UTF-8 or the encoding that its first bytes name.

    Raises:
        LeftOutError: The bytes are not text, or in another encoding.
    """
    encoding = encoding_of(content[:HEAD_BYTES])
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        is_binary = encoding != "utf-8" or _has_control_characters(content[:HEAD_BYTES])
        reason = Reason.BINARY if is_binary else Reason.NOT_UTF8
        raise LeftOutError(reason) from None
    if "\0" in text:
        raise LeftOutError(Reason.BINARY)
    return content if encoding.startswith("utf-8") else text.encode()


def _has_control_characters(head: bytes) -> bool:
    """Return whether there are bytes that a text of no alphabet has."""
    return not set(range(32)).difference(b"\t\n\v\f\r\b\x1a\x1b").isdisjoint(head)


def as_text(file: BinaryIO, encoding: str, *, newline: str) -> TextIO:
    """Return a file that reads as text; an error of UTF-8 costs its row alone."""
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    return io.TextIOWrapper(file, encoding, errors, newline=newline)
