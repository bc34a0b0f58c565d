"""Text to measure with, of any size: Python's sources, and copies that differ.

Everyone has it: the `.py` files of the standard library and of the installed packages.
Where they are not enough, the same files come again with other words: in each copy, one
word in five has its letters exchanged, always the same words in the same case. So they
keep what slows a tokenizer down, new words without end, which mere copies would not.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toygpt.data.corpus import Document

LONGEST_FILE = 1_000_000  # bytes; the few longer ones are tables
ONE_WORD_IN = 5


def documents(num_bytes: int) -> Iterator[Document]:
    """Yield documents until they have that many bytes of text."""
    num = 0
    for copy in count():
        for path in source_files():
            content = path.read_bytes()
            try:
                text = other_words(content, copy).decode()
            except UnicodeDecodeError:
                continue
            if not text.strip() or len(content) > LONGEST_FILE:
                continue
            names = f"{copy}/{path}", f"{copy}/{path.parent}"
            yield Document(*names, text, num_bytes=len(text.encode()))
            num += len(content)
            if num >= num_bytes:
                return


def source_files() -> list[Path]:
    """Return Python's sources, in the order of their paths below their folders."""
    folders = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    return [
        path
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        if folder is folders[1] or "site-packages" not in path.parts
    ]


def other_words(content: bytes, copy: int) -> bytes:
    """Exchange the letters of some words; which and how, the number of the copy says.

    Copy 0 is the text as it is.
    """
    if copy == 0 or not content:
        return content
    characters = np.frombuffer(content, dtype=np.uint8)
    lower = characters | 0x20
    is_letter = (lower >= ord("a")) & (lower <= ord("z"))
    starts = np.flatnonzero(np.diff(is_letter, prepend=False) & is_letter)
    if not len(starts):
        return content
    # A number for each word: the same word has the same one, wherever it stands.
    place = np.arange(len(characters), dtype=np.uint64)
    word_of = np.cumsum(np.diff(is_letter, prepend=False) & is_letter) - 1
    place -= starts[np.maximum(word_of, 0)].astype(np.uint64)
    values = np.where(is_letter, (place * 31 + 7) * (lower + place), 0)
    hashes = np.add.reduceat(values, starts) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (hashes ^ np.uint64(copy * 0x5851F42D4C957F2D % 2**64)) * np.uint64(
        0xD6E8FEB86659FD93
    )
    chosen = (mixed >> np.uint64(40)) % np.uint64(ONE_WORD_IN) == 0
    return np.where(
        is_letter & chosen[word_of], _exchange(copy)[characters], characters
    ).tobytes()


def _exchange(copy: int) -> NDArray[np.uint8]:
    """Return what each byte becomes: letters become other letters."""
    order = np.random.default_rng(copy).permutation(26).astype(np.uint8)
    table = np.arange(256, dtype=np.uint8)
    for first in (ord("a"), ord("A")):
        table[first : first + 26] = first + order
    return table
