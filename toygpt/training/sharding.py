"""Models larger than a device: every weight is split among the ranks.

With `runtime.strategy: fsdp`, each rank keeps some rows of every weight (a shard), of
its gradient, and of what the optimizer remembers of it. Just before a layer computes,
the ranks send one another their rows; afterwards each drops those of the others. It is
PyTorch's FSDP2 (`fully_shard`), after Rajbhandari et al., 2019, "ZeRO", stage 3
(https://arxiv.org/abs/1910.02054).
"""

import contextlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from toygpt.model.gpt import GPT, Block
from toygpt.pipeline.errors import InputError
from toygpt.training.ranks import on_rank_zero

GIB = 2**30


class ShardedStrategy(DDPStrategy):
    """Lightning's DDP, but that it splits a network among the ranks.

    It starts as DDP does, and makes no group of ranks while it starts. So ranks whose
    `runtime.strategy` differs can still compare it.

    Args:
        is_mixed: As in `shard`.
        timeout: How long a rank waits for the others.
    """

    def __init__(self, *, is_mixed: bool, timeout: timedelta) -> None:
        super().__init__(timeout=timeout)
        self.is_mixed = is_mixed

    def module_to_device(self, module: nn.Module) -> None:
        """Do nothing: `shard` sends to each rank's device what it keeps."""

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        """Return the network, which each rank has its rows of."""
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        return shard(module, mesh, is_mixed=self.is_mixed)


def is_sharded(fabric: Fabric) -> bool:
    """Return whether a Fabric splits the weights among its ranks."""
    return isinstance(fabric.strategy, ShardedStrategy)


def device_to_build_on(fabric: Fabric) -> AbstractContextManager[Any]:
    """Return a context in which a network is made, with weights where they are needed.

    A network that will be split is made whole on rank zero alone, in the memory of its
    host. On the other ranks its weights have shapes but no numbers until `shard`.
    """
    if is_sharded(fabric) and not fabric.is_global_zero:
        return torch.device("meta")
    return contextlib.nullcontext()


def shard(network: nn.Module, mesh: DeviceMesh, *, is_mixed: bool) -> nn.Module:
    """Split a network among the ranks, in place; the weights are those of rank zero.

    Args:
        network: A GPT and its loss as one module.
        mesh: The ranks.
        is_mixed: Whether the network computes in bf16-mixed. Autocast would keep a
            whole copy of each matrix in 16 bits until the backward pass. So the layers
            that it would cast, which are nothing but matrices and their biases, are
            sent in 16 bits already: the same numbers, and half as many bytes.
    """
    model = cast("GPT", network.model)
    whole = {name: weight.detach() for name, weight in network.named_parameters()}
    dtypes = MixedPrecisionPolicy(cast_forward_inputs=False)
    if is_mixed:
        dtypes = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
    for block in cast("Iterable[Block]", model.blocks):
        fully_shard(block.attention, mesh=mesh, mp_policy=dtypes)
        fully_shard(block.feed_forward, mesh=mesh, mp_policy=dtypes)
    fully_shard(network, mesh=mesh)
    _send_weights(network, whole, mesh)
    return network


@torch.no_grad()
def _send_weights(
    network: nn.Module, whole: dict[str, Tensor], mesh: DeviceMesh
) -> None:
    """Give each rank its rows of the weights that rank zero has.

    PyTorch's `set_model_state_dict(broadcast_from_rank0=True)` gives the same with as
    much memory, but sends each rank all rows, and misses the second name of the tied
    matrix unless it is not strict.
    """
    if any(weight.is_meta for weight in whole.values()):
        network.to_empty(device=mesh.device_type)
    for name, weight in network.named_parameters():
        source = torch.empty(weight.shape, device=mesh.device_type)
        if mesh.get_rank() == 0:
            source = whole.pop(name).to(source)
        rows_of(weight).copy_(rows_of(distribute_tensor(source, mesh, [Shard(0)])))
    for buffer in network.buffers():
        torch.distributed.broadcast(buffer, src=0)


def drop_rows_of_others(network: nn.Module) -> None:
    """Drop the rows of other ranks from all weights; without FSDP nothing happens.

    A backward pass ends so. After a forward pass without one, PyTorch keeps the whole
    weights outside of the blocks, and the optimizer remembers nothing of those.
    """
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def rows_of(tensor: Tensor) -> Tensor:
    """Return this rank's rows of a tensor that is split; another tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_of(tensor: Tensor) -> Tensor:
    """Return a tensor with the rows of all ranks, which all have to call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_rows(target: Tensor, whole: Tensor) -> None:
    """Write a whole tensor, of which each rank takes its rows, into another."""
    if isinstance(target, DTensor):
        whole = distribute_tensor(
            whole.to(target.device),
            target.device_mesh,
            target.placements,
            src_data_rank=None,  # each rank has the whole: nothing is sent
        )
    rows_of(target).copy_(rows_of(whole))


def to_host(fabric: Fabric, model: GPT) -> None:
    """Move a trained network to the memory of the host, in place.

    A network that is split gets whole there, on rank zero alone; on the other ranks its
    weights have no numbers afterwards.

    Raises:
        InputError: The host of rank zero has too little memory for it.
    """
    if not is_sharded(fabric):
        model.cpu()
        return
    on_rank_zero(fabric, partial(_check_host_memory, 4 * model.num_parameters))
    weights = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    with torch.device("meta"):
        whole = GPT(model.config)
    if fabric.is_global_zero:
        whole.load_state_dict(weights, assign=True)
        whole.to_logits.weight = whole.token_embedding.weight
    for name, module in whole.named_children():
        setattr(model, name, module)
    model.positions = model.positions.cpu()


def _check_host_memory(needed: int) -> None:
    import psutil

    if (free := psutil.virtual_memory().available) < needed:
        raise InputError(
            f"the trained network needs {needed / GIB:.1f} GiB of memory on the host "
            f"of rank zero, and {free / GIB:.1f} GiB are free; its checkpoints stay: "
            f"free memory, or let rank zero run on a larger host, and resume"
        )
