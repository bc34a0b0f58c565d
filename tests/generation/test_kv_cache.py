"""The key/value cache of one sequence."""

import torch

from tests.tiny import BLOCK_SIZE, lively_model, random_tokens
from toygpt.generation.kv_cache import LayerCache
from toygpt.model.gpt import Cache


def test_the_logits_are_the_same_however_many_tokens_the_prefill_reads() -> None:
    model = lively_model()
    tokens = random_tokens(2, BLOCK_SIZE)
    expected = model(tokens)

    for num_first in (1, 7, BLOCK_SIZE):
        cache = Cache(slice(0), [LayerCache() for _ in model.blocks])
        logits, start = [], 0
        for part in tokens.split([num_first] + [1] * (BLOCK_SIZE - num_first), dim=1):
            cache.positions = slice(start, start + part.shape[1])
            logits.append(model(part, cache))
            start = cache.positions.stop
        torch.testing.assert_close(
            torch.cat(logits, dim=1), expected, rtol=1e-4, atol=1e-4
        )
