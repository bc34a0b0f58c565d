"""Start Lightning Fabric: one process for each device, called a rank.

Fabric moves tensors to the devices, casts them to the precision, and adds up gradients
over the ranks. The loop itself is ours (loop.py).
"""

import logging
import os
import signal
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.strategy import Strategy
from lightning_fabric.utilities.exceptions import MisconfigurationException

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.process import is_launched
from toygpt.training.settings import RuntimeSettings
from toygpt.training.sharding import ShardedStrategy

# How long a rank waits for the others before it gives up: longer than it takes rank
# zero to sync the trackers with earlier trainings or to write a checkpoint, or one rank
# to compile the network later than another.
WAIT_FOR_RANKS = timedelta(minutes=30)

# Set by Lightning's own command line; they would overrule params.yaml without a word.
LIGHTNING_VARIABLES = [
    f"LT_{name}"
    for name in (
        "CLI_USED",
        "ACCELERATOR",
        "STRATEGY",
        "DEVICES",
        "NUM_NODES",
        "PRECISION",
    )
]

# Where launchers say how many processes they have started: torchrun, srun, mpirun.
PROCESS_COUNT_VARIABLES = (
    "WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS",
    "OMPI_COMM_WORLD_SIZE",
)


def launch(
    runtime: RuntimeSettings, *, precision: Literal["32-true", "bf16-mixed"]
) -> Fabric:
    """Return a Fabric once all ranks have started; each continues with its own.

    Args:
        runtime: Which devices, and how many of them.
        precision: What `train.precision` stands for on this machine.

    Raises:
        InputError: This machine does not fit the settings, or several processes were
            started of which each would train alone.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    for name in LIGHTNING_VARIABLES:
        os.environ.pop(name, None)
    torch.set_float32_matmul_precision("high")
    if runtime.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(runtime.deterministic)
    try:
        is_fsdp = runtime.strategy == "fsdp"
        fabric = _new_fabric(
            runtime, precision, "auto" if is_fsdp else runtime.strategy
        )
        if isinstance(fabric.strategy, DDPStrategy):
            # The network's only buffer is a constant: no need to send it each time.
            strategy: Strategy = DDPStrategy(
                timeout=WAIT_FOR_RANKS, forward_sync_buffers=False
            )
            if is_fsdp:
                _check_that_it_can_be_sharded(fabric.device)
                strategy = ShardedStrategy(
                    is_mixed=precision == "bf16-mixed", timeout=WAIT_FOR_RANKS
                )
            fabric = _new_fabric(runtime, precision, strategy)
        else:
            _check_that_this_process_is_the_only_one()
        _check_the_number_of_ranks(runtime, fabric)
        _check_that_rank_zero_has_an_address(fabric)
        with _signals_end_the_process():
            fabric.launch()
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise InputError(
            f"this machine or its Slurm job does not fit `runtime` in params.yaml: "
            f"{error}"
        ) from None
    return fabric


def _new_fabric(
    runtime: RuntimeSettings,
    precision: Literal["32-true", "bf16-mixed"],
    strategy: str | Strategy,
) -> Fabric:
    with warnings.catch_warnings():
        # Where Slurm is installed: the command in this hint would not work.
        warnings.filterwarnings("ignore", "The `srun` command is available")
        return Fabric(
            accelerator=runtime.accelerator,
            devices=runtime.devices,
            num_nodes=runtime.num_nodes,
            strategy=strategy,
            precision=precision,
        )


def _check_that_it_can_be_sharded(device: torch.device) -> None:
    """Refuse to split weights where PyTorch cannot.

    Raises:
        ValueError: It cannot on this device.
    """
    if device.type == "mps":
        raise ValueError("runtime.strategy is fsdp, which has no form for mps")


def _check_that_this_process_is_the_only_one() -> None:
    """Refuse to train several models at the same time, into the same files.

    Raises:
        ValueError: A launcher has started several processes.
    """
    for name in PROCESS_COUNT_VARIABLES:
        if (number := int(os.environ.get(name, "1"))) > 1:
            raise ValueError(
                f"{number} processes were started ({name}), but runtime.devices is 1, "
                f"so that each would train a model of its own; set runtime.devices to "
                f"the number of processes on a machine, and runtime.num_nodes"
            )
    if (node := int(os.environ.get("NODE_RANK", "0"))) > 0:
        raise ValueError(
            f"this is machine {node} of several (NODE_RANK, counted from 0), but "
            f"runtime.num_nodes is 1, so that it would train a model of its own"
        )


def _check_the_number_of_ranks(runtime: RuntimeSettings, fabric: Fabric) -> None:
    """Refuse more or fewer processes than the settings ask for.

    Raises:
        ValueError: A launcher has started another number of them.
    """
    if not is_launched() or runtime.devices == "auto":
        return
    wanted = runtime.num_nodes * runtime.devices
    if fabric.world_size != wanted:
        raise ValueError(
            f"{fabric.world_size} processes were started, but runtime.num_nodes "
            f"({runtime.num_nodes}) times runtime.devices ({runtime.devices}) is "
            f"{wanted}"
        )


def _check_that_rank_zero_has_an_address(fabric: Fabric) -> None:
    """Refuse a name that nothing knows: ranks would ask for it until their wait ends.

    Raises:
        ValueError: The host of rank zero cannot be found under its name.
    """
    cluster = getattr(fabric.strategy, "cluster_environment", None)
    if cluster is None:
        return
    try:
        socket.getaddrinfo(cluster.main_address, None)
    except socket.gaierror:
        raise ValueError(
            f"the host of rank zero, {cluster.main_address!r}, has no address here; "
            f"set MASTER_ADDR to one that all machines know"
        ) from None


@contextmanager
def _signals_end_the_process() -> Iterator[None]:
    """End the process at once by Ctrl+C or SIGTERM, while it waits for other ranks.

    Python would react only after the wait, and nothing is there yet to be saved.
    """
    handlers = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if callable(handler := signal.getsignal(number))
    }
    for number in handlers:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def explain_out_of_memory(fabric: Fabric, micro_batch_size: int) -> Iterator[None]:
    """Name the parameter that helps when a device runs out of memory.

    Raises:
        InputError: A device ran out of memory.
    """
    try:
        yield
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        raise InputError(
            f"{fabric.device.type} out of memory: micro-batches of {micro_batch_size} "
            f"sequences are too large for it; set a lower runtime.micro_batch_size "
            f"in params.yaml, or choose a smaller model"
        ) from None


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether a device ran out of memory, while it computed or compiled.

    The compiler raises errors of its own, which keep the first as `inner_exception`.
    """
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = getattr(error, "inner_exception", None) or error.__cause__
    return False
