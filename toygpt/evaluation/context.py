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
    # A power of two: windows of each length fill it.
    region = 2 ** int(math.log2(block_size // 2))
    wanted = min(max(SHARE * len(tokens), MIN_PREDICTED), MAX_PREDICTED)
    num_regions = math.ceil(min(wanted, len(tokens) - block_size) / region)
    ends = np.linspace(block_size + 1, len(tokens), num_regions, dtype=int)
    answers = ends[:, None] + np.arange(-region, 0)
    bigram = float(losses.bigram[answers].mean(dtype=np.float64))

    found = []
    powers_of_two = {2**power for power in range(block_size.bit_length())}
    for length in sorted(powers_of_two | {block_size}):
        new = min(max(1, length // 2), region)  # the others are context alone
        places = answers.reshape(-1, new)[:, -1:] + np.arange(-length, 1)
        sequences = torch.from_numpy(tokens[places].astype(np.int64))
        total = 0.0
        # No more logits than those of a batch in `evaluate`.
        for batch in sequences.split(max(1, batch_size * block_size // (2 * length))):
            ids = batch.to(model.device)
            logits = model.to_logits(model.read(ids[:, :-1])[:, -new:]).flatten(0, 1)
            answered = ids[:, -new:].flatten()
            total += F.cross_entropy(logits, answered, reduction="sum").item()
        found.append(Context(length, total / answers.size / math.log(2), bigram))
    return found
