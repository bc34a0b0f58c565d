"""Generate text with a key/value cache: each new token costs one token's work.

A token's key and value depend on no later token. So each layer computes them once,
keeps them, and every later token looks back at them. The second rung of the ladder that
begins in simple.py; it gives the same tokens.
"""

import torch
import torch.nn.functional as F

from toygpt.generation.sampling import Sampling, choose_tokens
from toygpt.model.attention import Heads
from toygpt.model.gpt import GPT, Cache


class LayerCache:
    """The attention of one layer, with a memory: all keys and values so far.

    The method `__call__` makes an object callable: the layer calls it like a function,
    in place of `flash_attention`.
    """

    def __init__(self) -> None:
        self.keys: list[Heads] = []
        self.values: list[Heads] = []

    def __call__(self, query: Heads, key: Heads, value: Heads) -> Heads:
        """Keep the newest tokens' keys and values; mix the values of all tokens so far.

        The first call (the prefill) is for many tokens, none of which may see a later
        one. Each call after it (a decode step) is for one token, which may see all.
        """
        is_prefill = not self.keys
        self.keys.append(key)
        self.values.append(value)
        keys, values = torch.cat(self.keys, dim=2), torch.cat(self.values, dim=2)
        return F.scaled_dot_product_attention(query, keys, values, is_causal=is_prefill)


@torch.inference_mode()
def generate(
    model: GPT,
    prompt_ids: list[int],
    *,
    max_new_tokens: int,
    end_of_text_id: int,
    sampling: Sampling | None = None,
) -> list[int]:
    """Return the tokens with which the model continues a prompt, as in simple.py.

    Positions are absolute. When the block is full and the window moves, every token has
    another position, and no key or value stays valid: to move by one token would mean
    to read the whole block again for each token. Moving by half a block costs, on
    average, one more token's work for each new token.

    >>> from toygpt.generation import simple
    >>> from toygpt.model.gpt import GPTConfig
    >>> seed = torch.manual_seed(1)
    >>> config = GPTConfig(
    ...     vocab_size=50, num_layers=2, num_heads=2, block_size=8, embed_dim=16,
    ...     dropout=0.0,
    ... )
    >>> model = GPT(config).eval()
    >>> babble = Sampling(temperature=2.0, seed=2)
    >>> settings = {"max_new_tokens": 20, "end_of_text_id": 0, "sampling": babble}
    >>> new_ids = generate(model, [1, 2, 3], **settings)
    >>> new_ids == simple.generate(model, [1, 2, 3], **settings)
    True
    """
    block_size = model.config.block_size
    source = sampling or Sampling()  # of random numbers
    generator = source.generator(device=model.device)
    window = unread = prompt_ids[-block_size:]  # unread: not in the cache yet
    cache = _empty_cache(model)
    new_ids: list[int] = []
    while len(new_ids) < max_new_tokens:
        cache.positions = slice(len(window) - len(unread), len(window))
        logits = model(torch.tensor([unread], device=model.device), cache)[:, -1]
        [next_id] = choose_tokens(logits, sampling, [generator])
        if next_id == end_of_text_id:
            break
        new_ids.append(next_id)
        window, unread = [*window, next_id], [next_id]
        if len(window) > block_size:
            window = unread = window[-(block_size // 2) :]
            cache = _empty_cache(model)
    return new_ids


def _empty_cache(model: GPT) -> Cache:
    return Cache(positions=slice(0), layers=[LayerCache() for _ in model.blocks])
