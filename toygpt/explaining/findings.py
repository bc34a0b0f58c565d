"""What a trace shows: guesses after each part, habits, and what a head changes.

Each is a measurement of the network that was traced, or follows from its numbers
exactly. None explains by itself: attention says where a head looks, not what comes of
it, so that `probabilities_without_each_head` removes the head and measures again.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from toygpt.explaining.trace import Trace
from toygpt.model.gpt import GPT

# By how much a habit has to exceed looking everywhere alike.
CLEAR = 0.15


def logits_after_each_part(
    model: GPT, traced: Trace
) -> Iterator[Float[Tensor, "time vocab"]]:
    """Yield the logits if the network ended after each part: the logit lens.

    nostalgebraist, 2020, "interpreting GPT: the logit lens". Each vector is normalised
    by its own mean and spread, as the last one is: with the spread of the last vector,
    early guesses would look too unsure.
    """
    for vectors in traced.stream:
        yield model.to_logits(model.final_norm(vectors))


def habit(
    shares: Float[Tensor, "time time"], token_ids: list[int]
) -> tuple[str, float]:
    """Return what a head often looks at, and its mean share; ("", 0) if at nothing.

    A share counts if it is clearly more than looking at all tokens alike would give: in
    a text that repeats itself, the same token is in many places.
    """
    best, best_share, best_gain = "", 0.0, CLEAR
    for name, where in places_to_look_at(token_ids).items():
        rows = where.any(dim=-1)
        rows[:2] = False  # with one or two tokens to see, there is hardly a choice
        if rows.sum() >= 3:
            share = float((shares * where).sum(dim=-1)[rows].mean())
            seen = torch.arange(1, len(token_ids) + 1)
            gain = share - float((where.sum(dim=-1) / seen)[rows].mean())
            if gain > best_gain:
                best, best_share, best_gain = name, share, gain
    return best, best_share


def places_to_look_at(token_ids: list[int]) -> dict[str, Bool[Tensor, "time time"]]:
    """Return for each habit which tokens (columns) a token (row) would look at."""
    ids, place = torch.tensor(token_ids), torch.arange(len(token_ids))
    now = place[:, None]
    is_same = (ids[:, None] == ids) & (place < now)
    is_after_same = is_same.roll(1, dims=-1) & (place > 0) & (place < now)
    return {
        "itself": place == now,
        "the token before": place == now - 1,
        "the first token": (place == 0) & (now > 1),
        "earlier places of the same token": is_same,
        "what followed the same token earlier": is_after_same,
    }


def probabilities_without_each_head(
    model: GPT, traced: Trace, wanted: list[int]
) -> Float[Tensor, "layer head time"]:
    """Return the probability of one token per position if a head gave nothing.

    Ablation: the network computes again from the head's block on, and what the head
    hands over is zero. The heads of a block are a batch, with one silent in each.
    """
    config, places = model.config, range(len(wanted))
    head_dim = config.embed_dim // config.num_heads
    # In each sequence of the batch another head counts zero times.
    times = 1 - torch.eye(config.num_heads).repeat_interleave(head_dim, dim=1)[:, None]
    probabilities = []
    for layer in range(config.num_layers):
        x = traced.stream[2 * layer + 1].expand(config.num_heads, -1, -1)
        to_output = model.get_submodule(f"blocks.{layer}.attention.to_output")
        with to_output.register_forward_pre_hook(lambda _, inputs: inputs[0] * times):
            for block in model.blocks[layer:]:
                x = block(x)
        logits = model.to_logits(model.final_norm(x))
        probabilities.append(logits.softmax(dim=-1)[:, places, wanted])
    return torch.stack(probabilities)
