"""Choose the next token: the most likely one (greedy), or a random one (sampling)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

PROCESSOR = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose the next token at random.

    The same seed gives the same text, on the same machine and device.

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

    def generator(
        self, sequence: int = 0, device: torch.device = PROCESSOR
    ) -> torch.Generator:
        """Return the source of random numbers for one of several sequences.

        Tokens are chosen where the source is: on the model's device if that is a GPU of
        CUDA, else on the processor, since other GPUs lack numbers of 64 bits.
        """
        where = device if device.type == "cuda" else PROCESSOR
        return torch.Generator(where).manual_seed(self.seed + sequence)


def choose_tokens(
    logits: Float[Tensor, "batch vocab"],
    sampling: Sampling | None,
    generators: Sequence[torch.Generator],
) -> list[int]:
    """Return the next token of each sequence.

    Args:
        logits: The model's scores for the token after each sequence.
        sampling: How to choose at random; None is greedy: the most likely token.
        generators: A source of random numbers for each sequence; not used if greedy.
    """
    chosen = choose_on_device(logits, sampling, generators)
    return [int(token_id) for token_id in chosen.tolist()]


def choose_on_device(
    logits: Float[Tensor, "batch vocab"],
    sampling: Sampling | None,
    generators: Sequence[torch.Generator],
) -> Int[Tensor, " batch"]:
    """Return the next token of each sequence as a tensor; a GPU is not waited for.

    Sampling is a race: each token needs a random time, exponentially distributed with
    its probability as the rate, and the first one wins. That happens to each with its
    own probability. `Tensor.multinomial` does the same, number for number, but waits.
    """
    if sampling is None:
        return logits.argmax(dim=-1)
    logits = logits.to(generators[0].device)
    probabilities = next_token_probabilities(logits, sampling)
    times = torch.empty_like(probabilities)
    for of_sequence, generator in zip(times, generators, strict=True):
        of_sequence.exponential_(generator=generator)
    return (probabilities / times).argmax(dim=-1)


def next_token_probabilities(
    logits: Float[Tensor, "batch vocab"], sampling: Sampling
) -> Float[Tensor, "batch vocab"]:
    """Turn the model's scores into a probability for each possible next token.

    `top_p` is from Holtzman et al., 2019, "The Curious Case of Neural Text
    Degeneration", section 3.1 (https://arxiv.org/abs/1904.09751): where the model is
    sure, few tokens are left to choose from, and many where it is not. At the edge of
    `top_k`, tokens with equal scores are all kept; at that of `top_p`, as many as are
    needed. Computed in 64 bits, since tens of thousands of small numbers are added up.

    >>> logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    >>> next_token_probabilities(logits, Sampling(top_k=2))
    tensor([[0.6250, 0.3750, 0.0000]], dtype=torch.float64)
    """
    logits = logits.double()
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature
    if sampling.top_k is not None:
        lowest_kept = logits.topk(min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < lowest_kept, -torch.inf)
    probabilities = logits.softmax(dim=-1)
    if sampling.top_p is not None and sampling.top_p < 1:
        descending, token_ids = probabilities.sort(dim=-1, descending=True)
        reached_before = descending.cumsum(dim=-1) - descending
        kept = descending.masked_fill(reached_before >= sampling.top_p, 0)
        probabilities = torch.zeros_like(kept).scatter(-1, token_ids, kept)
    return probabilities / probabilities.sum(dim=-1, keepdim=True)
