"""How many sequences a device holds at once: `runtime.micro_batch_size: auto`."""

from typing import Literal

import torch
from lightning_fabric import Fabric

from toygpt.model.attention import CausalSelfAttention, flash_attention
from toygpt.model.gpt import GPT, GPTConfig
from toygpt.training.output_loss import MULTIPLE
from toygpt.training.ranks import gather
from toygpt.training.sharding import is_sharded

GIB = 2**30
# Sequences at once on a GPU of CUDA; more make a step no faster, by estimate.
MOST = 128
# On any other device.
MOST_ELSEWHERE = 64
# All logits of a micro-batch are one tensor. Many kernels count its elements in 32
# bits; for larger tensors others are chosen, and none of those was measured.
MOST_LOGITS = 2**31 - 1
# Of a GPU's memory; the rest is for what PyTorch and the driver need.
USABLE_FRACTION = 0.9
# For each parameter: weight, gradient and two moments in 32 bits; what the optimizer
# works with, and copies in 16 bits.
BYTES_PER_PARAMETER = 24
# For each channel of a token in a block, in 16 bits: Korthikanti et al., 2022,
# "Reducing Activation Recomputation in Large Transformer Models", equation 2 without
# the table of scores, which flash attention never holds (https://arxiv.org/abs/2205.05198).
BYTES_PER_CHANNEL = 34
# Of that table, where it is held: its softmax in 32 bits, and once more in 16.
BYTES_PER_SCORE = 6


def max_micro_batch_size(
    choice: int | Literal["auto"],
    model: GPT,
    fabric: Fabric,
    *,
    is_compiled: bool,
    kernels: Literal["plain", "fused"],
) -> int:
    """Return how many sequences a device may hold at once, the same on all ranks.

    Args:
        choice: As `runtime.micro_batch_size` in params.yaml.
        model: The network.
        fabric: Where it is trained, and in which precision.
        is_compiled: Whether it is compiled; if it is split, its blocks alone are.
        kernels: Its form.
    """
    if choice != "auto":
        return choice
    if fabric.device.type != "cuda":
        return MOST_ELSEWHERE
    # All of it, not what is free now: the same card always takes the same number.
    memory = torch.cuda.get_device_properties(fabric.device).total_memory
    is_mixed = fabric.strategy.precision.precision == "bf16-mixed"
    most = fitting_sequences(
        memory,
        model.config,
        bytes_per_number=2 if is_mixed else 4,
        is_compiled=is_compiled,
        is_loss_fused=kernels == "fused" or (is_compiled and not is_sharded(fabric)),
        holds_scores=holds_scores(model),
        num_shards=fabric.world_size if is_sharded(fabric) else 1,
    )
    return min(gather(fabric, most))  # of unlike GPUs, what fits the smallest


def holds_scores(model: GPT) -> bool:
    """Return whether its attention holds the whole table of scores in memory."""
    return any(
        module.attend is not flash_attention
        for module in model.modules()
        if isinstance(module, CausalSelfAttention)
    )


def fitting_sequences(
    memory: int,
    config: GPTConfig,
    *,
    bytes_per_number: int,
    is_compiled: bool,
    is_loss_fused: bool,
    holds_scores: bool = False,
    num_shards: int = 1,
) -> int:
    """Return how many sequences fit into so many bytes of a GPU: from 1 to `MOST`."""
    per_sequence = bytes_per_sequence(
        config,
        bytes_per_number=bytes_per_number,
        is_compiled=is_compiled,
        is_loss_fused=is_loss_fused,
        holds_scores=holds_scores,
    )
    parameters = config.num_parameters / num_shards
    if num_shards > 1:  # during a step, the embedding and its gradient are whole
        parameters += config.vocab_size * config.embed_dim
    left = USABLE_FRACTION * memory - BYTES_PER_PARAMETER * parameters
    padded_vocab_size = config.vocab_size + -config.vocab_size % MULTIPLE
    countable = MOST_LOGITS // (config.block_size * padded_vocab_size)
    return max(1, min(MOST, countable, int(left / per_sequence)))


def bytes_per_sequence(
    config: GPTConfig,
    *,
    bytes_per_number: int,
    is_compiled: bool,
    is_loss_fused: bool,
    holds_scores: bool = False,
) -> int:
    """Return an estimate of what a step holds for each sequence, rather too much.

    For `small` in bf16 it gives 16 GiB for 64 sequences compiled, and 33 GiB otherwise;
    12 and 27 were measured on an H100.
    """
    per_channel = BYTES_PER_CHANNEL * bytes_per_number // 2
    if not is_compiled:  # more is kept for the backward pass
        per_channel = per_channel * 3 // 2
    # The logits and their gradient; step by step, the loss keeps more, in 32 bits.
    per_logit = 2 * bytes_per_number if is_loss_fused else 12
    per_token = config.embed_dim * per_channel
    if holds_scores:
        per_token += config.num_heads * config.block_size * BYTES_PER_SCORE
    of_blocks = config.num_layers * per_token
    return config.block_size * (of_blocks + config.vocab_size * per_logit)
