"""Assign each document to a split: train, validation, or test.

The rule has four steps (docs/decisions/data.md says why):

1. A group with more than a sixth of all tokens, and more than twice the share of the
   smallest split, is cut by the fractions asked for: its first part goes to train, the
   next to validation, the last to test.
2. Every other group goes, as a whole, to the split of a keyed hash of its name.
3. A held-out split that is off by more than a quarter then gives away groups that are
   too large for it, and takes the next ones in the order of their hash.
4. If a split is still off by more than a quarter, groups with more than half the share
   of the smallest split are cut as well, and steps 2 and 3 repeated.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from toygpt.data.cuts import Cut, Cutter
from toygpt.data.token_files import Tokens

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(len(SPLITS))

# How far a split may be from the share asked for, relative to that share.
TOLERANCE = 0.25
# A group is always cut if it has more than this share of all tokens, and more than this
# multiple of the smallest split's share.
LARGE_FRACTION = 1 / 6
LARGE_MULTIPLE = 2
# If that is not enough, groups above this multiple are cut as well. A smaller one fits
# into any split that lacks a quarter or more.
SMALL_MULTIPLE = 0.5


@dataclass(frozen=True)
class Assignment:
    """The split of every piece of a corpus; a piece is a document, or a part of one."""

    ends: NDArray[np.int64]  # one past the last token of each piece
    splits: NDArray[np.int8]  # of each piece, as an index of SPLITS
    is_cut: NDArray[np.bool_]  # whether the document continues after the piece
    num_groups: int
    num_groups_cut: int
    num_groups_moved: int  # whole ones that are not where their hash puts them

    def between(self, start: int, end: int) -> Self:
        """Return the pieces of a shard, whose tokens are those from start to end."""
        first, last = np.searchsorted(self.ends, [start, end], side="right")
        return replace(
            self,
            ends=self.ends[first:last] - start,
            splits=self.splits[first:last],
            is_cut=self.is_cut[first:last],
        )

    def documents_in(self, split: int) -> NDArray[np.bool_]:
        """Return for each document whether it, or a piece of it, is in a split."""
        ends_document = ~self.is_cut
        document_of_piece = ends_document.cumsum() - ends_document
        found = np.zeros(ends_document.sum(), dtype=bool)
        found[document_of_piece[self.splits == split]] = True
        return found


def hash_of_group(group: str, *, key: int) -> int:
    """Return a keyed 64-bit hash of a group's name.

    A hash is as good as a die that falls the same way each time: new groups move no old
    ones, and every machine assigns alike.
    """
    digest = hashlib.blake2b(
        group.encode("utf-8", errors="surrogatepass"),
        digest_size=8,
        key=key.to_bytes(8, "little"),
    ).digest()
    return int.from_bytes(digest, "little")


def is_off(share: float, asked: float) -> bool:
    """Return whether a share differs from the one asked for by over a quarter."""
    return abs(share - asked) > TOLERANCE * asked


def assign_splits(
    tokens: Tokens,
    ends: NDArray[np.int64],
    group_hashes: NDArray[np.uint64],
    *,
    validation_fraction: float,
    test_fraction: float,
    bytes_of_token: Sequence[bytes],
) -> Assignment:
    """Assign each document to a split, or each part of a document that is cut.

    Memory grows by a few numbers for each document, not with its length.

    Args:
        tokens: The token ids of all documents, one after another.
        ends: One past the last token of each document.
        group_hashes: The hash of each document's group.
        validation_fraction: Share of all tokens to hold out for validation.
        test_fraction: Share of all tokens to hold out for the test.
        bytes_of_token: The bytes that each token id stands for.
    """
    if len(group_hashes) != len(ends):
        raise ValueError(f"{len(group_hashes):,} groups for {len(ends):,} documents")
    # From here on, a group is known by its place in the sorted order of the hashes.
    order = np.argsort(group_hashes)  # the documents, group by group
    hashes = group_hashes[order]
    del group_hashes  # which `split` does not need any more
    is_other = hashes[1:] != hashes[:-1]
    starts = np.flatnonzero(np.concatenate([[True], is_other, [True]]))  # and the end
    hashes = hashes[starts[:-1]]
    sizes = np.add.reduceat(np.diff(ends, prepend=0)[order], starts[:-1]).astype(float)
    by_hash = np.full(len(hashes), TRAIN, dtype=np.int8)
    # As positions from 0 to 1: test is first, then comes validation.
    by_hash[hashes / 2.0**64 < test_fraction + validation_fraction] = VALIDATION
    by_hash[hashes / 2.0**64 < test_fraction] = TEST
    wanted = sizes.sum() * np.array(
        [1 - validation_fraction - test_fraction, validation_fraction, test_fraction]
    )

    cutter = Cutter(tokens, ends, validation_fraction, test_fraction, bytes_of_token)
    cuts: dict[int, Cut] = {}
    large = max(LARGE_FRACTION * sizes.sum(), LARGE_MULTIPLE * wanted.min())
    for limit in (large, SMALL_MULTIPLE * wanted.min()):
        for group in np.flatnonzero(sizes > limit).tolist():
            if group not in cuts:
                documents = order[starts[group] : starts[group + 1]]
                cuts[group] = cutter.cut(np.sort(documents))
        is_whole = np.ones(len(hashes), dtype=bool)
        is_whole[list(cuts)] = False
        got = np.zeros(len(SPLITS))
        for cut in cuts.values():
            got += cut.num_tokens
        splits = _assign_whole(by_hash, is_whole, sizes, got, wanted)
        for split in range(len(SPLITS)):
            got[split] += sizes.sum(where=is_whole & (splits == split))
        if not any(map(is_off, got, wanted)):
            break

    splits_of_documents = np.empty(len(ends), dtype=np.int8)
    splits_of_documents[order] = np.repeat(splits, np.diff(starts))
    ends_of_pieces, splits_of_pieces, is_cut = _pieces(
        ends, splits_of_documents, cuts.values()
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
    by_hash: NDArray[np.int8],
    is_whole: NDArray[np.bool_],
    sizes: NDArray[np.float64],
    from_cuts: NDArray[np.float64],
    wanted: NDArray[np.float64],
) -> NDArray[np.int8]:
    """Return the split of each group that stays whole, and TRAIN for the others.

    Args:
        by_hash: The split of each group by its hash; groups are sorted by their hash.
        is_whole: Whether a group is not cut.
        sizes: Tokens of each group.
        from_cuts: Tokens that each split gets from the groups that are cut.
        wanted: Tokens that each split should have.
    """
    splits = np.full(len(sizes), TRAIN, dtype=np.int8)
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
    """Return the groups that bring a split near to its share.

    The split keeps its own groups, by hash, except the too large ones. If that is too
    little, it takes the first of the others, as long as each brings it nearer.
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


def _pieces(
    ends: NDArray[np.int64], splits: NDArray[np.int8], cuts: Iterable[Cut]
) -> tuple[NDArray[np.int64], NDArray[np.int8], NDArray[np.bool_]]:
    """Return end and split of each piece, and whether its document continues.

    Args:
        ends: One past the last token of each document.
        splits: The split of each document whose group is not cut.
        cuts: The groups that are cut.
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
    places = np.array(sorted(split_before), dtype=np.int64)
    documents = np.searchsorted(ends, places)
    is_inside = (places > 0) & (ends[documents] != places)
    places, documents = places[is_inside], documents[is_inside]
    return (
        np.insert(ends, documents, places),
        np.insert(splits, documents, [split_before[p] for p in places.tolist()]),
        np.insert(np.zeros(len(ends), dtype=bool), documents, True),
    )
