"""The sizes of the splits: what was asked for, what came of it, and is it enough?"""

import numpy as np
import pytest

from toygpt.data.manifest import Part
from toygpt.data.split import Assignment
from toygpt.data.split_sizes import (
    check_sizes,
    fractions_asked,
    summary,
    warnings,
)
from toygpt.pipeline.errors import InputError

ASKED = fractions_asked(0.08, 0.08)


def parts(train: int, validation: int, test: int) -> dict[str, Part]:
    tokens = {"train": train, "validation": validation, "test": test}
    return {name: Part(number, 1, 3 * number) for name, number in tokens.items()}


def check(sizes: dict[str, Part], block_size: int = 128) -> None:
    check_sizes(sizes, ASKED, model="nano", block_size=block_size)


def test_each_split_needs_a_block_and_training_two() -> None:
    """It cuts its blocks from an offset."""
    check(parts(257, 129, 129))
    check(parts(9_999, 129, 9_999))
    for sizes in ((256, 129, 129), (257, 128, 129), (257, 129, 128)):
        with pytest.raises(InputError, match="are too few for blocks of 128"):
            check(parts(*sizes))


def test_the_message_names_each_way_out() -> None:
    with pytest.raises(InputError) as caught:
        check(parts(841, 81, 80))

    assert str(caught.value) == (
        "1,002 tokens of text are too few for blocks of 128: the validation split "
        "would hold 81 and needs 129, the test split would hold 80 and needs 129. Use "
        "more text (at least 2,150 tokens), or split.validation_fraction=0.18 and "
        "split.test_fraction=0.18, or models.nano.block_size=79 (-S, or in params.yaml)"
    )
    check(parts(841, 81, 80), block_size=79)


@pytest.mark.parametrize(
    ("sizes", "not_named"), [((252, 24, 24), "_fraction="), ((3, 1, 1), "block_size=")]
)
def test_ways_out_that_cannot_help_are_not_named(
    sizes: tuple[int, int, int], not_named: str
) -> None:
    with pytest.raises(InputError, match="too few") as caught:
        check(parts(*sizes))

    assert not_named not in str(caught.value)


def test_the_summary_says_what_was_asked_and_what_came_of_it() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    splits, is_cut = nothing.astype(np.int8), nothing.astype(bool)
    assignment = Assignment(nothing, splits, is_cut, 12, 2, 1)

    assert summary(parts(30_000, 3_000, 3_000), ASKED, assignment) == (
        "tokens: 30,000 to train (83.33%; asked: 84.00%), "
        "3,000 to validation (8.33%; asked: 8.00%), 3,000 to test (8.33%; asked: "
        "8.00%); groups: 9 by hash, 1 moved to fit, 2 cut"
    )


def test_a_split_that_is_far_off_is_named_in_a_warning() -> None:
    assert warnings(parts(30_000, 3_000, 3_000), ASKED) == []
    assert warnings(parts(33_000, 3_000, 10), ASKED) == [
        "warning: the test split has 0.03% of the tokens, 8.00% were asked for "
        "(split.*_fraction in params.yaml)"
    ]
