"""The reading path runs: each rung from text to sample has examples, and they hold."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from tests.tree import reading_order


@pytest.mark.parametrize("rung", reading_order(), ids=str)
def test_the_examples_of_a_rung_are_true(rung: Path) -> None:
    module = import_module(".".join(rung.with_suffix("").parts))

    result = doctest.testmod(module)

    assert result.attempted > 0, "the rung has no example"
    assert result.failed == 0
