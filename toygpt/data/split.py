"""Hold text out: some of it to watch training by, some to evaluate the result on.

Which split a text goes to is decided in four steps (docs/decisions/split.md says why):

1. A group with more than a sixth of all tokens, and more than twice the share of the
   smallest split, is cut by the fractions asked for: its first part goes to train, the
   next to validation, the last to test.
2. Every other group goes, as a whole, where a keyed hash of its name puts it.
3. A held-out split that is off by more than a quarter then gives away groups that are
   too large for it, and takes the next ones in the order of their hash.
4. If a split is still off by more than a quarter, groups with more than half the share
   of the smallest split are cut as well, and steps 2 and 3 repeated.
"""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toygpt.data.manifest import Part
from toygpt.data.token_files import TOKENS_AT_ONCE, TokenIds

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(len(SPLITS))

# How far a split may be from the share asked for, relative to that share.
TOLERANCE = 0.25
# The same of the parts of a group that is cut between documents.
CUT_TOLERANCE = 0.1
# A group is always cut if it has more than this share of all tokens, and more than this
# multiple of what the smallest split should have.
LARGE_FRACTION = 1 / 6
LARGE_MULTIPLE = 2
# If that is not enough, groups above this multiple are cut as well. A smaller one fits
# into any split that lacks a quarter or more.
SMALL_MULTIPLE = 0.5
# How far from its ideal place a cut inside a document may be, to be at a better one.
MAX_TOKENS_TO_BOUNDARY = 1000


@dataclass(frozen=True)
class Assignment:
    """The split of every piece of a corpus; a piece is a document, or a part of one."""

    ends: NDArray[np.int64]  # one past the last token of each piece
    splits: NDArray[np.int64]  # of each piece, as an index of SPLITS
    is_cut: NDArray[np.bool_]  # whether the document continues after the piece
    num_groups: int
    num_groups_cut: int
    num_groups_moved: int  # whole ones that are not where their hash puts them


def hash_of_group(group: str, *, key: int) -> int:
    """Return a keyed 64-bit hash of a group's name.

    It is as good as a die, and falls the same way each time: new groups move no old
    ones, and every machine assigns alike.
    """
    digest = hashlib.blake2b(
        group.encode("utf-8", errors="surrogatepass"),
        digest_size=8,
        key=key.to_bytes(8, "little"),
    ).digest()
    return int.from_bytes(digest, "little")


def is_off(share: float, asked: float) -> bool:
    """Say whether a split got a quarter more or less than was asked for, or worse."""
    return abs(share - asked) > TOLERANCE * asked


def assign_splits(
    tokens: TokenIds,
    ends: NDArray[np.uint64],
    group_hashes: Iterable[int],
    *,
    validation_fraction: float,
    test_fraction: float,
    bytes_of_token: Sequence[bytes],
) -> Assignment:
    """Decide which split each document goes to, or each part of one that is cut.

    Memory grows by a few numbers for each document, whatever its length.

    Args:
        tokens: The token ids of all documents, one after another.
        ends: One past the last token of each document.
        group_hashes: The hash of each document's group.
        validation_fraction: Share of all tokens to hold out for validation.
        test_fraction: Share of all tokens to hold out for the test.
        bytes_of_token: The bytes that each token id stands for.
    """
    document_ends = ends.astype(np.int64)
    lengths = np.diff(document_ends, prepend=0)
    # Sorted. From here on, a group is known by its place in this order.
    hashes, group_of_document = np.unique(
        np.fromiter(group_hashes, np.uint64), return_inverse=True
    )
    if len(group_of_document) != len(lengths):
        raise ValueError(
            f"{len(group_of_document):,} groups for {len(lengths):,} documents"
        )
    sizes = np.bincount(group_of_document, lengths, len(hashes)).astype(np.float64)
    positions = hashes / 2.0**64  # from 0 to 1: test is first, then comes validation
    by_hash = (positions < test_fraction + validation_fraction) * VALIDATION
    by_hash[positions < test_fraction] = TEST
    fractions = np.array(
        [1 - validation_fraction - test_fraction, validation_fraction, test_fraction]
    )
    wanted = fractions * sizes.sum()

    cutter = _Cutter(tokens, document_ends, fractions, bytes_of_token)
    cuts: dict[int, _Cut] = {}
    large = max(LARGE_FRACTION * sizes.sum(), LARGE_MULTIPLE * wanted.min())
    for limit in (large, SMALL_MULTIPLE * wanted.min()):
        for group in np.flatnonzero(sizes > limit).tolist():
            if group not in cuts:
                cuts[group] = cutter.cut(np.flatnonzero(group_of_document == group))
        is_whole = np.ones(len(hashes), dtype=bool)
        is_whole[list(cuts)] = False
        got = np.zeros(len(SPLITS))
        for cut in cuts.values():
            got += cut.num_tokens
        splits = _assign_whole(by_hash, is_whole, sizes, got, wanted)
        got += np.bincount(splits, sizes * is_whole, len(SPLITS))
        if not any(map(is_off, got, wanted)):
            break

    ends_of_pieces, splits_of_pieces, is_cut = _pieces(
        document_ends, splits[group_of_document], cuts.values()
    )
    return Assignment(
        ends_of_pieces,
        splits_of_pieces,
        is_cut,
        num_groups=len(hashes),
        num_groups_cut=len(cuts),
        num_groups_moved=int((is_whole & (splits != by_hash)).sum()),
    )


def _assign_whole(
    by_hash: NDArray[np.int64],
    is_whole: NDArray[np.bool_],
    sizes: NDArray[np.float64],
    from_cuts: NDArray[np.float64],
    wanted: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return the split of each group that stays whole, of the others TRAIN.

    Args:
        by_hash: Where its hash puts each group; groups are in the order of their hash.
        is_whole: Whether a group is not cut.
        sizes: Tokens of each group.
        from_cuts: Tokens that each split gets of the groups that are cut.
        wanted: Tokens that each split should have.
    """
    splits = np.full(len(sizes), TRAIN)
    is_free = is_whole.copy()
    for split in (TEST, VALIDATION):
        chosen = np.flatnonzero(is_free & (by_hash >= split))
        if is_off(from_cuts[split] + sizes[chosen].sum(), wanted[split]):
            chosen = _groups_that_fit(
                chosen,
                np.flatnonzero(is_free & (by_hash < split)),
                sizes,
                from_cuts[split],
                wanted[split],
            )
        splits[chosen] = split
        is_free[chosen] = False
    return splits


def _groups_that_fit(
    own: NDArray[np.int64],
    others: NDArray[np.int64],
    sizes: NDArray[np.float64],
    got: float,
    wanted: float,
) -> NDArray[np.int64]:
    """Return the groups that bring a split near to what it should have.

    Those that are its own by hash stay, but for those that are too large. If that is
    too little, the first of the others come to it, until it would get no nearer.
    """
    chosen = []
    for group in own.tolist():
        if got + sizes[group] <= (1 + TOLERANCE) * wanted:
            chosen.append(group)
            got += sizes[group]
    if is_off(got, wanted):
        for group in others.tolist():
            with_it = got + sizes[group]
            if not is_off(got, wanted) and abs(with_it - wanted) >= abs(got - wanted):
                break
            if with_it <= (1 + TOLERANCE) * wanted:
                chosen.append(group)
                got = with_it
    return np.array(chosen, dtype=np.int64)


@dataclass(frozen=True)
class _Cut:
    """A group in three parts."""

    documents: NDArray[np.int64]  # the group's, as indices of all documents
    starts: tuple[int, int]  # of validation and of test, in tokens of the corpus
    num_tokens: NDArray[np.int64]  # of each part


@dataclass(frozen=True)
class _Cutter:
    """Cuts groups in three: between documents where that fits, else inside one."""

    tokens: TokenIds
    ends: NDArray[np.int64]  # of all documents
    fractions: NDArray[np.float64]  # of a group that each split should get
    bytes_of_token: Sequence[bytes]

    def cut(self, documents: NDArray[np.int64]) -> _Cut:
        """Cut the group that consists of some documents."""
        starts = np.append(0, self.ends)[documents]
        ends = (self.ends[documents] - starts).cumsum()  # in tokens of the group
        size = int(ends[-1])
        test = self._start(self.fractions[TEST] * size, size, documents, ends)
        validation = self._start(
            self.fractions[VALIDATION] * size, test, documents, ends
        )
        around = np.searchsorted(ends, [validation, test])
        places = self.ends[documents[around]] - ends[around] + [validation, test]
        return _Cut(
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
        """Return where a part starts that should have so many tokens and end at `stop`.

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
        pieces = [self.bytes_of_token[token] for token in around]
        return lowest + _best_boundary(pieces, ideal - lowest)


def _best_boundary(pieces: Sequence[bytes], ideal: int) -> int:
    """Return the best place for a cut, near the ideal one.

    Best is after a blank line, then after the end of a line, then between characters.

    Args:
        pieces: The bytes of tokens. A cut at place i is before the token i + 1.
        ideal: Of equally good places, the nearest to this one is taken.
    """
    qualities = []
    num_newlines = 0  # in the white space that comes before the place
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


def _pieces(
    ends: NDArray[np.int64], splits: NDArray[np.int64], cuts: Iterable[_Cut]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return end and split of each piece, and whether its document continues.

    Args:
        ends: Of the documents.
        splits: Of the documents whose group is not cut.
        cuts: The other groups.
    """
    splits = splits.copy()
    split_before: dict[int, int] = {}
    for cut in cuts:
        validation_start, test_start = cut.starts
        of_group = ends[cut.documents]
        splits[cut.documents] = TRAIN
        splits[cut.documents] += of_group > validation_start
        splits[cut.documents] += of_group > test_start
        split_before |= {test_start: VALIDATION, validation_start: TRAIN}
    # A start that is not between documents cuts one.
    places = np.setdiff1d(list(split_before), np.append(0, ends)).astype(np.int64)
    documents = np.searchsorted(ends, places)
    return (
        np.insert(ends, documents, places),
        np.insert(splits, documents, [split_before[p] for p in places.tolist()]),
        np.insert(np.zeros(len(ends), dtype=bool), documents, True),
    )


def write_splits(
    tokens: TokenIds,
    assignment: Assignment,
    directory: Path,
    bytes_of_token: NDArray[np.int64],
    end_of_text_id: int,
) -> dict[str, Part]:
    """Copy each piece to the file of its split, in the order of the corpus.

    A piece whose document continues gets an end of text of its own: nothing runs from
    it into what its split holds next.

    Args:
        tokens: The token ids of all documents, one after another.
        assignment: What goes where.
        directory: Where train.bin, validation.bin and test.bin are written.
        bytes_of_token: How many bytes of text each token id stands for.
        end_of_text_id: The token id of `<|endoftext|>`.

    Returns:
        What each split holds; a part of a document counts as one.
    """
    num_tokens, num_bytes = [0] * len(SPLITS), [0] * len(SPLITS)
    splits = assignment.splits
    last_of_run = np.append(np.flatnonzero(np.diff(splits)), len(splits) - 1)
    end_of_text = np.array([end_of_text_id], dtype=tokens.dtype)
    with ExitStack() as stack:
        files = [
            stack.enter_context((directory / f"{name}.bin").open("wb"))
            for name in SPLITS
        ]
        start = 0
        for split, end, is_cut in zip(
            splits[last_of_run].tolist(),
            assignment.ends[last_of_run].tolist(),
            assignment.is_cut[last_of_run].tolist(),
            strict=True,
        ):
            for first in range(start, end, TOKENS_AT_ONCE):
                piece = tokens[first : min(first + TOKENS_AT_ONCE, end)]
                files[split].write(piece.data)
                num_tokens[split] += len(piece)
                num_bytes[split] += int(bytes_of_token[piece].sum())
            if is_cut:
                files[split].write(end_of_text.data)
                num_tokens[split] += 1
            start = end
    num_documents = np.bincount(splits, minlength=len(SPLITS)).tolist()
    return {
        name: Part(*counts)
        for name, *counts in zip(
            SPLITS, num_tokens, num_documents, num_bytes, strict=True
        )
    }
