"""Who owns which matrix, where neither sizes nor matrices divide by the ranks."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from tests.tiny import BLOCK_SIZE, tiny_model
from tests.training.ranks import run_ranks
from tests.training.trained import trained
from toygpt.training import owners
from toygpt.training.muon import FastMuon
from toygpt.training.sharding import whole_of

STEPS = 4


def test_matrices_are_assigned_so_that_each_rank_has_equally_many_of_a_shape() -> None:
    square, wide = torch.Size([4, 4]), torch.Size([4, 16])
    shapes = [square, square, wide, square, wide, square, wide]

    assert owners.assign(shapes, 2) == [[0, 3, 2, 6], [1, 5, 4]]
    assert owners.assign(shapes[:1], 2) == [[0], []]


def test_no_rank_makes_more_numbers_orthogonal_at_once_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or a single matrix, if that has more."""
    shapes = [torch.Size([4, 4])] * 4 + [torch.Size([4, 16])]
    monkeypatch.setattr(owners, "AT_ONCE", 4 * 16)

    assert list(owners.rounds(shapes, 2)) == [[[0, 2], [1, 3]], [[4], []]]
    assert list(owners.rounds(shapes, 1)) == [[[0, 1, 2, 3]], [[4]]]
    monkeypatch.setattr(owners, "AT_ONCE", 1)
    assert len(list(owners.rounds(shapes, 2))) == 3


@pytest.mark.parametrize("num_rows", [1, 5, 8, 9])
def test_ranks_have_the_rows_that_torch_cuts(num_rows: int) -> None:
    matrix = torch.zeros(num_rows, 3)
    own: Any = object.__new__(owners.OwnersOfShards)
    own.shapes, own.ranks = [matrix.shape], range(4)

    rows = [own._num_rows(rank, 0) for rank in own.ranks]

    assert [number for number in rows if number] == [
        len(part) for part in matrix.chunk(4)
    ]


def updated(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Return a matrix after a step of Muon."""
    parameter = torch.nn.Parameter(weight)
    parameter.grad = gradient
    FastMuon([parameter], lr=0.1).step()
    return whole_of(parameter.detach())


def train(folder: Path) -> None:
    """Train on all ranks with weights whole and split; rank zero writes the results."""
    ranks = int(os.environ["WORLD_SIZE"])
    results: dict[str, Any] = {}
    owners.AT_ONCE = 1  # each owner takes one matrix after another
    for strategy in ("ddp", "fsdp"):
        training = trained(
            tiny_model(embed_dim=10, num_layers=1),
            runtime={"devices": ranks, "strategy": strategy},
            optimizer="muon",
            batch_size=2 * ranks,
            max_tokens=STEPS * 2 * ranks * BLOCK_SIZE,
        )
        results[strategy] = list(training.model.state_dict().values())
    # A matrix of two rows: the last rank has none of them, and rank zero alone owns it.
    mesh = init_device_mesh("cpu", (ranks,))
    both = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(1))
    shards = (distribute_tensor(tensor, mesh, [Shard(0)]) for tensor in both)
    results["one split"] = updated(*shards)
    results["one whole"] = updated(*both)
    if os.environ["RANK"] == "0":
        torch.save(results, folder / "results.pt")


@pytest.mark.parametrize(
    "ranks",
    [
        pytest.param(3, marks=pytest.mark.slow),
        pytest.param(4, marks=pytest.mark.cluster),
    ],
)
def test_odd_sizes_on_several_ranks_give_the_same_weights_split_or_not(
    tmp_path: Path, ranks: int
) -> None:
    ended = run_ranks(train, tmp_path, ranks=ranks)

    assert ended.codes == [0] * ranks, ended.stderr
    results = torch.load(tmp_path / "results.pt")
    torch.testing.assert_close(results["fsdp"], results["ddp"], rtol=0, atol=1e-3)
    assert torch.equal(results["one split"], results["one whole"])
