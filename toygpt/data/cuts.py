"""Cut a group of documents in three: between documents, or inside one.

A cut inside a document is at a place where the text pauses: after an empty line, after
the end of a line, or between two characters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from toygpt.data.token_files import Tokens

# How far a part may be from its share, relative to it, to be cut between documents.
CUT_TOLERANCE = 0.1
# How far from its ideal place a cut inside a document may be, to be at a better one.
MAX_TOKENS_TO_BOUNDARY = 1000


@dataclass(frozen=True)
class Cut:
    """A group in three parts."""

    documents: NDArray[np.int64]  # the group's, as indices of all documents
    starts: tuple[int, int]  # of validation and of test, in tokens of the corpus
    num_tokens: NDArray[np.int64]  # of each part


@dataclass(frozen=True)
class Cutter:
    """Cut groups in three: between documents where possible, else inside one."""

    tokens: Tokens
    ends: NDArray[np.int64]  # of all documents
    validation_fraction: float  # of a group, for its second part
    test_fraction: float  # of a group, for its last part
    bytes_of_token: Sequence[bytes]

    def cut(self, documents: NDArray[np.int64]) -> Cut:
        """Cut the group that consists of some documents."""
        starts = np.append(0, self.ends)[documents]
        ends = (self.ends[documents] - starts).cumsum()  # in tokens of the group
        size = int(ends[-1])
        test = self._start(self.test_fraction * size, size, documents, ends)
        validation = self._start(self.validation_fraction * size, test, documents, ends)
        around = np.searchsorted(ends, [validation, test])
        places = self.ends[documents[around]] - ends[around] + [validation, test]
        return Cut(
            documents,
            (int(places[0]), int(places[1])),
            np.diff([0, validation, test, size]),
        )

    def _start(
        self,
        wanted: float,
        stop: int,
        documents: NDArray[np.int64],
        ends: NDArray[np.int64],
    ) -> int:
        """Return where a part of `wanted` tokens starts that ends at `stop`.

        All places are in tokens of the group.
        """
        ideal = max(0, stop - round(wanted))
        document = int(np.searchsorted(ends, ideal))
        first, end = int(ends[document - 1]) if document else 0, int(ends[document])
        nearest = min(first, end, key=lambda place: abs(place - ideal))
        reach = min(MAX_TOKENS_TO_BOUNDARY, int(CUT_TOLERANCE * wanted))
        # Each part of a document has some text, not its <|endoftext|> alone.
        lowest, highest = max(first + 1, ideal - reach), min(end - 2, ideal + reach)
        if abs(ideal - nearest) <= CUT_TOLERANCE * wanted or lowest > highest:
            return nearest
        shift = int(self.ends[documents[document]]) - end
        around = self.tokens[shift + lowest - 1 : shift + highest + 1].tolist()
        # A damaged one may be no id: found out when `split_shard` copies the tokens.
        num_ids = len(self.bytes_of_token)
        pieces = [self.bytes_of_token[token % num_ids] for token in around]
        return lowest + _best_boundary(pieces, ideal - lowest)


def _best_boundary(pieces: Sequence[bytes], ideal: int) -> int:
    """Return the best place for a cut, near the ideal one.

    Best is after an empty line, then after the end of a line, then between characters.

    Args:
        pieces: The bytes of tokens. A cut at place i is before the token i + 1.
        ideal: The place to which a cut should be near, among equally good places.
    """
    qualities = []
    num_newlines = 0  # in the white space before the place
    for before, after in pairwise(pieces):
        text = before.rstrip()
        num_newlines *= not text
        num_newlines += before[len(text) :].count(b"\n")
        is_inside_character = b"\x80" <= after[:1] < b"\xc0"
        qualities.append(min(num_newlines, 2) - is_inside_character)
    return max(
        range(len(qualities)),
        key=lambda place: (qualities[place], -abs(place - ideal)),
    )
