"""The reading path runs: each rung from text to sample has examples, and they hold."""

import doctest
from importlib import import_module

import pytest

# In the reading order of README.md.
RUNGS = [
    "data.tokenizer",
    "data.batches",
    "model.attention",
    "model.gpt",
    "training.loop",
    "generation.simple",
    "generation.kv_cache",
    "generation.engine",
]


@pytest.mark.parametrize("rung", RUNGS)
def test_the_examples_of_a_rung_are_true(rung: str) -> None:
    result = doctest.testmod(import_module(f"toygpt.{rung}"))

    assert result.attempted > 0, "the rung has no example"
    assert result.failed == 0
