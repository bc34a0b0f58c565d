"""Write text: ask for the next token, append it, ask again."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from toygpt.generation.kv_cache import KeyValueCache
from toygpt.generation.packed import InferenceGPT


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
    model: InferenceGPT,
    prompt_ids: list[int],
    *,
    max_new_tokens: int,
    end_of_text_id: int,
    sampling: Sampling | None = None,
) -> Iterator[int]:
    """Yield the next token, again and again, until the text ends.

    Like `generate_together`, for one text alone.
    """
    for new_ids in generate_together(
        model,
        [prompt_ids],
        max_new_tokens=max_new_tokens,
        end_of_text_id=end_of_text_id,
        sampling=sampling,
    ):
        yield new_ids[0]


def generate_together(
    model: InferenceGPT,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    end_of_text_id: int,
    sampling: Sampling | None = None,
) -> Iterator[dict[int, int]]:
    """Yield the next token of every text, again and again, until all texts end.

    To read one token of each of many texts takes little longer than of one. Each text
    is the same as if it were written alone, whatever its company.

    The model looks back over `block_size` tokens. When they are full, it forgets the
    older half of them and reads the newer half anew, since every token's position has
    changed: of a long text it always sees the last `block_size // 2` tokens or more.

    Args:
        model: The network in the form that writes.
        prompts: What to continue; they may differ in length.
        max_new_tokens: Where to stop each text if the model does not.
        end_of_text_id: The token by which the model ends a text; it is not yielded.
        sampling: How to choose at random, in the first text with its seed, in the next
            with the next seed, and so on; None takes the most likely token each time.

    Yields:
        Of each text that goes on, by its place among the prompts, the next token.

    Raises:
        ValueError: An empty prompt: there is nothing to continue.
    """
    if not all(prompts):
        raise ValueError("the prompt is empty: there is nothing to continue")
    block_size = model.config.block_size
    seed = sampling.seed if sampling else 0
    texts = [
        Text(number, prompt[-block_size:], torch.Generator().manual_seed(seed + number))
        for number, prompt in enumerate(prompts)
    ]
    longest = max((len(text.window) for text in texts), default=0)
    cache = model.new_cache(len(texts), longest + max_new_tokens)
    for _ in range(max_new_tokens):
        for text, next_id in zip(
            texts, _next_ids(model, texts, cache, sampling), strict=True
        ):
            text.window.append(next_id)
        going_on = [
            row for row, text in enumerate(texts) if text.window[-1] != end_of_text_id
        ]
        if not going_on:
            return
        if len(going_on) < len(texts):
            texts = [texts[row] for row in going_on]
            cache.keep(going_on)
        yield {text.number: text.window[-1] for text in texts}
        for row, text in enumerate(texts):
            if len(text.window) > block_size:
                text.window = text.window[-(block_size // 2) :]
                cache.forget(row)


@dataclass
class Text:
    """A text that is being written."""

    number: int  # its place among the prompts
    window: list[int]  # the tokens that the model sees
    chance: torch.Generator


@torch.inference_mode()
def _next_ids(
    model: InferenceGPT,
    texts: list[Text],
    cache: KeyValueCache,
    sampling: Sampling | None,
) -> list[int]:
    """Let the model read on in all texts, and return the next token of each."""
    next_ids = [0] * len(texts)
    anew = [row for row, length in enumerate(cache.lengths) if length == 0]
    further = [row for row, length in enumerate(cache.lengths) if length > 0]
    for rows in (anew, further):
        if rows:
            unread = [texts[row].window[cache.lengths[row] :] for row in rows]
            logits = _read_on(model, cache, rows, unread)
            if sampling is None:
                chosen = logits.argmax(dim=-1).tolist()
            else:
                probabilities = next_token_probabilities(logits.cpu(), sampling)
                chosen = [
                    int(of_text.multinomial(1, generator=texts[row].chance))
                    for row, of_text in zip(rows, probabilities, strict=True)
                ]
            for row, next_id in zip(rows, chosen, strict=True):
                next_ids[row] = next_id
    return next_ids


def _read_on(
    model: InferenceGPT, cache: KeyValueCache, rows: list[int], unread: list[list[int]]
) -> Float[Tensor, "batch vocab"]:
    """Let the model read on in some texts; return the scores for what comes next."""
    num_unread = [len(token_ids) for token_ids in unread]
    longest = max(num_unread)
    filled_up = [token_ids + [0] * (longest - len(token_ids)) for token_ids in unread]
    cache.make_room(rows, num_unread)
    x = model.read_on(torch.tensor(filled_up, device=model.device), cache)
    # Only what comes after the last token of each text is asked for.
    if min(num_unread) == longest:
        return model.to_logits(x[:, -1])
    return model.to_logits(x[range(len(rows)), [num - 1 for num in num_unread]])


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
