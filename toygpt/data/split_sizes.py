"""See whether each split has the size that was asked for, and a usable one."""

import math
from collections.abc import Mapping

from toygpt.data.manifest import Part
from toygpt.data.split import SPLITS, TOLERANCE, Assignment, is_off
from toygpt.pipeline.errors import InputError

Fractions = Mapping[str, float]

# Training cuts its blocks from an offset, which skips at most another block.
NUM_BLOCKS = {"train": 2, "validation": 1, "test": 1}


def fractions_asked(validation: float, test: float) -> Fractions:
    """Return the share of all tokens that each split should have."""
    return {"train": 1 - (validation + test), "validation": validation, "test": test}


def fractions_got(parts: Mapping[str, Part]) -> Fractions:
    """Return the share of all tokens that each split has."""
    num_tokens = sum(part.tokens for part in parts.values())
    return {name: parts[name].tokens / num_tokens for name in SPLITS}


def check_sizes(
    parts: Mapping[str, Part], asked: Fractions, *, model: str, block_size: int
) -> None:
    """Raise an error, with advice that helps, if a split is too small for one block.

    Args:
        parts: How much each split holds.
        asked: The share of all tokens that each split should have.
        model: The model's key in `models` of params.yaml.
        block_size: Tokens in a block of the model.

    Raises:
        InputError: A split is too small.
    """
    needed = {name: NUM_BLOCKS[name] * block_size + 1 for name in SPLITS}
    too_small = [name for name in SPLITS if parts[name].tokens < needed[name]]
    if not too_small:
        return

    num_tokens = sum(part.tokens for part in parts.values())
    least = 1 - TOLERANCE  # of its share: a split is sure to get that much
    more_text = max(needed[name] / least / asked[name] for name in SPLITS)
    advice = [f"more text (at least {math.ceil(more_text):,} tokens)"]
    larger = dict(asked) | {
        name: math.ceil(100 * needed[name] / least / num_tokens) / 100
        for name in too_small
    }
    for_train = 1 - larger["validation"] - larger["test"]
    if "train" not in too_small and for_train * least * num_tokens >= needed["train"]:
        advice.append(
            " and ".join(f"split.{name}_fraction={larger[name]}" for name in too_small)
        )
    largest_block = min((parts[name].tokens - 1) // NUM_BLOCKS[name] for name in SPLITS)
    if largest_block > 0:
        advice.append(f"models.{model}.block_size={largest_block}")
    sizes = ", ".join(
        f"the {name} split would hold {parts[name].tokens:,} and needs {needed[name]:,}"
        for name in too_small
    )
    raise InputError(
        f"{num_tokens:,} tokens of text are too few for blocks of {block_size:,}: "
        f"{sizes}. Use {', or '.join(advice)} (-S, or in params.yaml)"
    )


def summary(parts: Mapping[str, Part], asked: Fractions, assignment: Assignment) -> str:
    """Return in one line what was asked for, what came of it, and how."""
    got = fractions_got(parts)
    shares = ", ".join(
        f"{parts[name].tokens:,} to {name} ({got[name]:.2%}; asked: {asked[name]:.2%})"
        for name in SPLITS
    )
    moved, cut = assignment.num_groups_moved, assignment.num_groups_cut
    return (
        f"tokens: {shares}; groups: {assignment.num_groups - moved - cut:,} by hash, "
        f"{moved:,} moved to fit, {cut:,} cut"
    )


def warnings(parts: Mapping[str, Part], asked: Fractions) -> list[str]:
    """Return a line for each split that is far from the share asked for."""
    got = fractions_got(parts)
    return [
        f"warning: the {name} split has {got[name]:.2%} of the tokens, "
        f"{asked[name]:.2%} were asked for (split.*_fraction in params.yaml)"
        for name in SPLITS
        if is_off(got[name], asked[name])
    ]
