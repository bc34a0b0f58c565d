"""Muon on several ranks: each matrix is made orthogonal once, by the rank that owns it.

To make a matrix orthogonal takes all of it, and as much work for a batch of one
sequence as for one of a million: 300 d³ operations for a block of d channels. If every
rank does it for every matrix, this work does not shrink with their number while
everything else does. So the matrices are assigned to the ranks, equally many of each
shape:

    each rank           its owner            each rank
    has some rows   →   has the matrix   →   gets the rows
    of every matrix     and its update       of the update that it keeps

With FSDP both arrows are an exchange among all ranks. With DDP every rank has all
matrices already: the first arrow is free, and the second takes the whole update to each
rank. Updates travel in the 16 bits that they are computed in, and have the bits that a
single process computes. Figures are in docs/decisions/training.md.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

# The rows of a matrix from which owners pay under DDP: what a rank saves grows as d³,
# and what it has to receive as d². For less, messages cost more than the work.
PAYS_FROM = 512


# Numbers in the matrices that an owner makes orthogonal at once, at most. Under FSDP,
# 256 MB as directions, as much while they are sent and received, and once more as whole
# ones; of all matrices, each of these would take as much as a rank has of the network.
# Under DDP, 256 MB as directions, and 128 MB as the updates of each owner.
AT_ONCE = 2**26

# The numbers of one or several matrices of a shape, and their updates: a matrix, or a
# stack of them.
Update = tuple[list[int], Tensor]
# The numbers of the matrices that each rank owns.
Owned = list[list[int]]


class Owners(Protocol):
    """Takes matrices to their owners, and updates back."""

    num_ranks: int

    def needed(self, owned: Owned) -> list[int]:
        """Return the matrices whose directions this rank has to give to `collect`."""

    def collect(self, tensors: Mapping[int, Tensor], owned: Owned) -> dict[int, Tensor]:
        """Return the matrices that this rank owns, whole, by their number."""

    def distribute(self, updates: Iterable[Update], owned: Owned) -> Iterator[Update]:
        """Yield this rank's rows of all updates, given those of its own matrices."""


def owners_of(matrices: Sequence[Tensor], dtype: torch.dtype) -> Owners | None:
    """Return the owners of some matrices, or None where each rank updates all of them.

    Args:
        matrices: As the optimizer has them: whole, or split among the ranks.
        dtype: Of the updates.
    """
    shapes = [matrix.shape for matrix in matrices]
    first = matrices[0]
    if isinstance(first, DTensor):
        group = first.device_mesh.get_group()
        return OwnersOfShards(shapes, dtype, first.device, group)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    if min(shapes[0]) < PAYS_FROM:
        return None
    return OwnersOfCopies(shapes, dtype, first.device)


def assign(shapes: Iterable[torch.Size], num_ranks: int) -> Owned:
    """Return the numbers of the matrices that each rank owns.

    Matrices of one shape are as much work, so that they are assigned in turn.
    """
    of_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for number, shape in enumerate(shapes):
        of_shape[shape].append(number)
    in_turn = [number for numbers in of_shape.values() for number in numbers]
    return [in_turn[rank::num_ranks] for rank in range(num_ranks)]


def rounds(shapes: Sequence[torch.Size], num_ranks: int) -> Iterator[Owned]:
    """Yield what the ranks own, some at a time, so that all have equally much to do."""
    owned = assign(shapes, num_ranks)
    first = size = 0
    for place in range(len(owned[0])):  # no rank owns more than rank zero
        of_ranks = [numbers[place] for numbers in owned if place < len(numbers)]
        largest = max(shapes[number].numel() for number in of_ranks)
        if first < place and size + largest > AT_ONCE:
            yield [numbers[first:place] for numbers in owned]
            first, size = place, 0
        size += largest
    yield [numbers[first:] for numbers in owned]


class OwnersOfCopies:
    """Owners under DDP, where every rank has every matrix."""

    def __init__(
        self, shapes: Sequence[torch.Size], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shapes = shapes
        self.dtype = dtype
        self.device = device
        self.rank = dist.get_rank()
        self.num_ranks = dist.get_world_size()

    def needed(self, owned: Owned) -> list[int]:
        """Return the matrices that this rank owns."""
        return owned[self.rank]

    def collect(self, tensors: Mapping[int, Tensor], owned: Owned) -> dict[int, Tensor]:
        """Return the matrices that this rank owns, as they are."""
        return dict(tensors)

    def distribute(self, updates: Iterable[Update], owned: Owned) -> Iterator[Update]:
        """Yield all updates: each owner sends its own to all others."""
        own = _by_number(updates)
        sent = []
        for owner, numbers in enumerate(owned):
            if owner == self.rank and numbers:
                buffer = torch.cat([own[number].flatten() for number in numbers])
            else:
                size = sum(math.prod(self.shapes[number]) for number in numbers)
                buffer = torch.empty(size, dtype=self.dtype, device=self.device)
            sent.append((numbers, buffer, dist.broadcast(buffer, owner, async_op=True)))
        for numbers, buffer, work in sent:
            assert work is not None, "this rank is one of them"
            work.wait()
            shapes = [self.shapes[number] for number in numbers]
            for number, update in zip(numbers, _cut(buffer, shapes), strict=True):
                yield [number], update


class OwnersOfShards:
    """Owners under FSDP, where every rank has some rows of every matrix."""

    def __init__(
        self,
        shapes: Sequence[torch.Size],
        dtype: torch.dtype,
        device: torch.device,
        group: dist.ProcessGroup,
    ) -> None:
        self.shapes = shapes
        self.dtype = dtype
        self.device = device
        self.group = group
        self.rank = dist.get_rank(group)
        self.num_ranks = dist.get_world_size(group)
        self.ranks = range(self.num_ranks)

    def needed(self, owned: Owned) -> list[int]:
        """Return all matrices: each owner gets this rank's rows of its own."""
        return list(chain.from_iterable(owned))

    def collect(self, tensors: Mapping[int, Tensor], owned: Owned) -> dict[int, Tensor]:
        """Return the matrices that this rank owns, from the rows of all ranks."""
        own = owned[self.rank]
        received = self._exchange(
            [[tensors[number] for number in numbers] for numbers in owned],
            [[self._shape_on(rank, number) for number in own] for rank in self.ranks],
        )
        return {
            number: torch.cat(rows)
            for number, rows in zip(own, zip(*received, strict=True), strict=True)
        }

    def distribute(self, updates: Iterable[Update], owned: Owned) -> Iterator[Update]:
        """Yield this rank's rows of all updates."""
        rows = {
            number: update.split([self._num_rows(rank, number) for rank in self.ranks])
            for number, update in _by_number(updates).items()
        }
        received = self._exchange(
            [[rows[number][rank] for number in rows] for rank in self.ranks],
            [
                [self._shape_on(self.rank, number) for number in numbers]
                for numbers in owned
            ],
        )
        for numbers, some in zip(owned, received, strict=True):
            for number, update in zip(numbers, some, strict=True):
                yield [number], update

    def _exchange(
        self,
        sent: Sequence[Sequence[Tensor]],
        shapes: Sequence[Sequence[tuple[int, int]]],
    ) -> list[list[Tensor]]:
        """Send tensors to each rank, and return those that each rank sent here.

        Args:
            sent: The tensors for each rank.
            shapes: Of the tensors that each rank sends.
        """
        tensors = [tensor.flatten() for some in sent for tensor in some]
        # A rank that owns no matrix has no update to send.
        nothing = torch.empty(0, dtype=self.dtype, device=self.device)
        outgoing = torch.cat(tensors) if tensors else nothing
        sizes = [sum(map(math.prod, some)) for some in shapes]
        incoming = outgoing.new_empty(sum(sizes))
        dist.all_to_all_single(
            incoming,
            outgoing,
            output_split_sizes=sizes,
            input_split_sizes=[sum(tensor.numel() for tensor in some) for some in sent],
            group=self.group,
        )
        buffers = incoming.split(sizes)
        return [_cut(*both) for both in zip(buffers, shapes, strict=True)]

    def _num_rows(self, rank: int, number: int) -> int:
        """Return how many rows of a matrix a rank has: FSDP cuts as `torch.chunk`."""
        num_rows = self.shapes[number][0]
        most = math.ceil(num_rows / len(self.ranks))
        return max(0, min(most, num_rows - rank * most))

    def _shape_on(self, rank: int, number: int) -> tuple[int, int]:
        return self._num_rows(rank, number), self.shapes[number][1]


def _by_number(updates: Iterable[Update]) -> dict[int, Tensor]:
    return {
        number: update
        for numbers, some in updates
        for number, update in zip(
            numbers, some if len(numbers) > 1 else [some], strict=True
        )
    }


def _cut(buffer: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Return the tensors that lie one after another in a buffer."""
    pieces = buffer.split([math.prod(shape) for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
