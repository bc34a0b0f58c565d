"""The key/value cache of many sequences: what it holds, test_engine.py shows."""

import pytest

from tests.tiny import BLOCK_SIZE, tiny_model
from toygpt.generation.batch_cache import BatchCache


def test_misuse_is_noticed_before_anything_changes() -> None:
    cache = BatchCache(tiny_model(), num_sequences=3, max_tokens=100)
    cache.prepare_prefill([0, 1], [BLOCK_SIZE, 3])

    with pytest.raises(AssertionError):
        cache.prepare_prefill([1, 2], [1, 1])
    with pytest.raises(AssertionError, match="begins with a prefill"):
        cache.prepare_decode_step([1, 2])
    with pytest.raises(AssertionError, match="full"):
        cache.prepare_decode_step([0, 1])

    assert cache.lengths == [BLOCK_SIZE, 3, 0]
