"""Generate many texts at once, and token by token.

Reading one token of each of sixteen sequences takes little longer than reading one
token of a single sequence: the weights are fetched from memory once for all sixteen.
The third rung of the ladder that begins in simple.py; it gives the same tokens. The
commands use it on a processor, and another one on a GPU of CUDA: fastest.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from toygpt.generation.batch_cache import BatchCache
from toygpt.generation.sampling import Sampling, choose_tokens
from toygpt.model.gpt import GPT


@dataclass
class Text:
    """A text that is being generated."""

    number: int  # its place among the prompts
    window: list[int]  # the tokens that the model sees
    generator: torch.Generator


def generate_batch(
    model: GPT,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    end_of_text_id: int,
    sampling: Sampling | None = None,
) -> Iterator[dict[int, int]]:
    """Yield the next token of every text, step by step, until all texts end.

    Each text is the same as if it were generated alone. Beyond `block_size` tokens its
    window moves by half a block, as in simple.py; the others are left alone.

    Args:
        model: A model in evaluation mode, as `load_model` or `pack` returns it.
        prompts: What to continue; they may differ in length.
        max_new_tokens: Where to stop each text if the model does not.
        end_of_text_id: The token by which the model ends a text; it is not yielded.
        sampling: How to choose at random, in the first text with its seed, in the next
            with the next seed, and so on; None takes the most likely token each time.

    Yields:
        The next token of each text that has not ended, by its place among the prompts.

    Raises:
        ValueError: An empty prompt: there is nothing to continue.

    >>> from toygpt.model.gpt import GPTConfig
    >>> seed = torch.manual_seed(1)
    >>> config = GPTConfig(
    ...     vocab_size=50, num_layers=2, num_heads=2, block_size=8, embed_dim=16,
    ...     dropout=0.0,
    ... )
    >>> model = GPT(config).eval()
    >>> prompts = [[1, 2, 3], [4]]
    >>> for new in generate_batch(model, prompts, max_new_tokens=3, end_of_text_id=0):
    ...     print(new)
    {0: 46, 1: 46}
    {0: 46, 1: 46}
    {0: 46, 1: 46}
    """
    if not all(prompts):
        raise ValueError("the prompt is empty: there is nothing to continue")
    block_size = model.config.block_size
    source = sampling or Sampling()
    texts = [
        Text(number, prompt[-block_size:], source.generator(number, model.device))
        for number, prompt in enumerate(prompts)
    ]
    longest = max((len(text.window) for text in texts), default=0)
    cache = BatchCache(
        model, num_sequences=len(texts), max_tokens=longest + max_new_tokens
    )
    for _ in range(max_new_tokens):
        next_ids = _next_ids(model, texts, cache, sampling)
        rows = [
            row for row, next_id in enumerate(next_ids) if next_id != end_of_text_id
        ]
        if not rows:
            return
        if len(rows) < len(texts):
            texts = [texts[row] for row in rows]
            cache.keep(rows)
        for row, text in zip(rows, texts, strict=True):
            text.window.append(next_ids[row])
        yield {text.number: text.window[-1] for text in texts}
        for row, text in enumerate(texts):
            if len(text.window) > block_size:
                text.window = text.window[-(block_size // 2) :]
                cache.clear(row)


@torch.inference_mode()
def _next_ids(
    model: GPT, texts: list[Text], cache: BatchCache, sampling: Sampling | None
) -> list[int]:
    """Read the new tokens of all texts, and return the next token of each."""
    next_ids = [0] * len(texts)
    # An empty row: its text has just begun, or its window has moved.
    new = [row for row, length in enumerate(cache.lengths) if length == 0]
    running = [row for row, length in enumerate(cache.lengths) if length > 0]
    # `read` is one of the two functions below.
    for rows, read in ((new, prefill), (running, decode_step)):
        if rows:
            logits = read(model, cache, rows, [texts[row].window for row in rows])
            generators = [texts[row].generator for row in rows]
            chosen = choose_tokens(logits, sampling, generators)
            for row, next_id in zip(rows, chosen, strict=True):
                next_ids[row] = next_id
    return next_ids


def prefill(
    model: GPT, cache: BatchCache, rows: list[int], windows: list[list[int]]
) -> Float[Tensor, "batch vocab"]:
    """Read all tokens of some sequences; return the logits of each next token."""
    lengths = [len(window) for window in windows]
    padded = [window + [0] * (max(lengths) - len(window)) for window in windows]
    cache.prepare_prefill(rows, lengths)
    x = model.read(torch.tensor(padded, device=model.device), cache)
    # Only the last token of each sequence needs logits.
    return model.to_logits(x[range(len(rows)), [length - 1 for length in lengths]])


def decode_step(
    model: GPT, cache: BatchCache, rows: list[int], windows: list[list[int]]
) -> Float[Tensor, "batch vocab"]:
    """Read the last token of some sequences; return the logits of each next token."""
    cache.prepare_decode_step(rows)
    last_ids = [[window[-1]] for window in windows]
    return model(torch.tensor(last_ids, device=model.device), cache)[:, -1]
