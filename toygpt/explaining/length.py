"""How many tokens a page shows: the prompt, and what the model adds to it."""

import math

# What the model adds, if nothing else is asked for: more would hide the steps.
NEW_TOKENS = 8
# A page holds a share for each pair of tokens in each head, and stays below 1 MB.
MOST_TOKENS, MOST_SHARES = 64, 180_000


def room_on_page(block_size: int, heads_in_all: int) -> int:
    """Return how many tokens fit, prompt and continuation together.

    Args:
        block_size: How many tokens the model looks back over.
        heads_in_all: The heads of all its blocks together.
    """
    return min(block_size, MOST_TOKENS, math.isqrt(MOST_SHARES // heads_in_all))
