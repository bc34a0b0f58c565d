"""What the model gains from what it has read: the same tokens, with less context."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from toygpt.evaluation.breakdown import Losses
from toygpt.model.gpt import GPT

# The share of the text that is predicted, and its limits in tokens. It is read about
# twice for each length of context.
SHARE = 1 / 256
MIN_PREDICTED, MAX_PREDICTED = 1_024, 65_536


class Context(NamedTuple):
    """The loss where the model sees only so much of the text before a token."""

    context: int  # tokens before it, at most; at least half as many
    bits: float  # per token
    bigram_bits: float


@torch.inference_mode()
def bits_by_context(model: GPT, losses: Losses, batch_size: int) -> list[Context]:
    """Return the loss with 1, 2, 4, … tokens of context, up to all that fit.

    Regions of the text, evenly spaced, are predicted from windows of each length. Their
    tokens are the same each time, so that only the context makes a difference.

    Args:
        model: A model in evaluation mode.
        losses: Of the tokens of a text, more than `block_size`.
        batch_size: Sequences of block_size tokens at once.
    """
    tokens, block_size = losses.tokens, model.config.block_size
    doublings = int(math.log2(block_size // 2))
    region = 2**doublings  # so that windows of each length fill it
    wanted = min(max(SHARE * len(tokens), MIN_PREDICTED), MAX_PREDICTED)
    num_regions = math.ceil(min(wanted, len(tokens) - block_size) / region)
    starts = np.linspace(
        block_size - region + 1, len(tokens) - region, num_regions
    ).astype(np.int64)
    answers = starts[:, None] + np.arange(region)
    bigram = float(losses.bigram[answers].mean(dtype=np.float64) / math.log(2))

    found = []
    lengths = [2**power for power in range(doublings + 2) if 2**power < block_size]
    for length in (*lengths, block_size):
        new = min(max(1, length // 2), region)  # the others are context alone
        places = answers.reshape(-1, new)[:, -1:] + np.arange(-length, 1)
        # No more logits than those of a batch in `evaluate`.
        at_once = max(1, batch_size * block_size // (2 * length))
        total = 0.0
        for first in range(0, len(places), at_once):
            sequences = tokens[places[first : first + at_once]].astype(np.int64)
            ids = torch.from_numpy(sequences).to(model.device)
            logits = model.to_logits(model.read(ids[:, :-1])[:, -new:])
            nats = F.cross_entropy(
                logits.flatten(0, 1), ids[:, -new:].flatten(), reduction="sum"
            )
            total += nats.item()
        bits = total / answers.size / math.log(2)
        found.append(Context(length, bits, bigram))
    return found
