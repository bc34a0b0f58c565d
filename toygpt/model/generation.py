"""Write text: ask for the next token, append it, ask again."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from toygpt.model.attention import KeyValueCache
from toygpt.model.gpt import GPT


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose the next token at random.

    The same seed gives the same text, on the same machine.

    Attributes:
        temperature: Below 1 favours likely tokens; above 1 evens them out.
        top_k: Keep only this many of the most likely tokens; None keeps all.
        top_p: Of these, keep the most likely ones that together reach this
            probability; None keeps all.
        seed: Of the random choices.

    Raises:
        ValueError: A value that leaves nothing to choose from, or makes no sense.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2^63 - 1, got {self.seed}")


def generate(
    model: GPT,
    prompt_ids: list[int],
    *,
    max_new_tokens: int,
    end_of_text_id: int,
    sampling: Sampling | None = None,
) -> Iterator[int]:
    """Yield the next token, again and again, until the text ends.

    The model looks back over `block_size` tokens. When they are full, it forgets the
    older half of them and reads the newer half anew, since every token's position has
    changed: of a long text it always sees the last `block_size // 2` tokens or more.

    Args:
        model: Ready to predict (`model.eval()`).
        prompt_ids: What to continue.
        max_new_tokens: Where to stop if the model does not.
        end_of_text_id: The token by which the model ends a text; it is not yielded.
        sampling: How to choose at random; None takes the most likely token each time.

    Raises:
        ValueError: An empty prompt: there is nothing to continue.
    """
    if not prompt_ids:
        raise ValueError("the prompt is empty: there is nothing to continue")
    generator = torch.Generator().manual_seed(sampling.seed if sampling else 0)
    block_size = model.config.block_size
    window = prompt_ids[-block_size:]  # the tokens that the model sees
    unread = window
    caches = model.new_caches()
    for _ in range(max_new_tokens):
        logits = _read(model, unread, caches)
        if sampling is None:
            next_id = int(logits.argmax())
        else:
            probabilities = next_token_probabilities(logits, sampling)
            next_id = int(probabilities.multinomial(1, generator=generator))
        if next_id == end_of_text_id:
            return
        yield next_id
        window = [*window, next_id]
        unread = [next_id]
        if len(window) > block_size:
            unread = window = window[-(block_size // 2) :]
            caches = model.new_caches()


@torch.inference_mode()
def _read(
    model: GPT, token_ids: list[int], caches: list[KeyValueCache]
) -> Float[Tensor, "1 vocab"]:
    """Let the model read on, and return the scores for what comes next."""
    device = model.token_embedding.weight.device
    return model(torch.tensor([token_ids], device=device), caches)[:, -1].cpu()


def next_token_probabilities(
    logits: Float[Tensor, "batch vocab"], sampling: Sampling
) -> Float[Tensor, "batch vocab"]:
    """Turn the model's scores into a probability for each possible next token.

    `top_p` is from Holtzman et al., 2019, "The Curious Case of Neural Text
    Degeneration", section 3.1 (https://arxiv.org/abs/1904.09751): where the model is
    sure, few tokens are left to choose from, and many where it is not. At the edge of
    `top_k`, tokens with equal scores are all kept; at that of `top_p`, as many as are
    needed. Computed in 64 bits, since tens of thousands of small numbers are added up.
    """
    logits = logits.double()
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature
    if sampling.top_k is not None:
        lowest_kept = logits.topk(min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < lowest_kept, -torch.inf)
    probabilities = logits.softmax(dim=-1)
    if sampling.top_p is not None and sampling.top_p < 1:
        likeliest, token_ids = probabilities.sort(dim=-1, descending=True)
        reached_before = likeliest.cumsum(dim=-1) - likeliest
        kept = likeliest.masked_fill(reached_before >= sampling.top_p, 0)
        probabilities = torch.zeros_like(kept).scatter(-1, token_ids, kept)
    return probabilities / probabilities.sum(dim=-1, keepdim=True)
