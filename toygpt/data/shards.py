"""Shards: a corpus too large for one file is cut into numbered ones.

A corpus of one shard has `documents.parquet`, `tokens.bin`, `ends.bin`, `train.bin` and
so on. If it has several, each of these files is several as well: shard 3 has
`documents-00003.parquet`, its tokens are `tokens-00003.bin`, and the part of them that
is trained on `train-00003.bin`. What is made of a shard depends on that shard alone, so
that shards can be worked on in any order, or at once.

>>> [Shard(number, 2).name("tokens.bin") for number in range(2)]
['tokens-00000.bin', 'tokens-00001.bin']
>>> THE_ONLY_SHARD.name("tokens.bin")
'tokens.bin'
"""

import hashlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from toygpt.pipeline.errors import InputError

MAX_SHARDS = 100_000  # their numbers have five digits


class Shard(NamedTuple):
    """One of the parts that a corpus is cut into, in the order of its documents."""

    number: int  # counted from 0
    num_shards: int

    def name(self, whole: str) -> str:
        """Return the name of the shard's file.

        Args:
            whole: The name that the file has if the corpus has one shard: `tokens.bin`.
        """
        if self.num_shards == 1:
            return whole
        path = Path(whole)
        return f"{path.stem}-{self.number:05}{path.suffix}"


THE_ONLY_SHARD = Shard(0, 1)


def shards_named(names: Collection[str], whole: str) -> list[Shard]:
    """Return the shards whose files are among some names, in order; [] if none is.

    Args:
        names: The names of files, others' among them.
        whole: The name that the file has if the corpus has one shard: `tokens.bin`.

    Raises:
        InputError: A shard is missing, or a file is left from another corpus.
    """
    stem, suffix = map(re.escape, (Path(whole).stem, Path(whole).suffix))
    found = {name for name in names if re.fullmatch(rf"{stem}(-\d+)?{suffix}", name)}
    shards = [Shard(number, len(found)) for number in range(len(found))]
    expected = [shard.name(whole) for shard in shards]
    if missing := [name for name in expected if name not in found]:
        spare = min(found.difference(expected))
        raise InputError(f"there is {spare}, but no {missing[0]}")
    return shards


def digest_of_shards(digests: Sequence[str]) -> str:
    """Return the digest by which all shards of a corpus are known to be unchanged.

    It is the digest of their digests; that of a single shard is the shard's own.
    """
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
