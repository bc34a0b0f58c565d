"""What the model gains from what it has read."""

import math

import numpy as np
import pytest
import torch

from tests.tiny import lively_model, random_text
from toygpt.evaluation import context
from toygpt.evaluation.breakdown import Losses
from toygpt.evaluation.context import bits_by_context
from toygpt.model.gpt import GPT


@pytest.mark.parametrize(
    ("block_size", "num_tokens"), [(16, 17), (16, 3000), (2, 3), (3, 4), (13, 14)]
)
def test_each_token_is_predicted_from_so_much_context(
    monkeypatch: pytest.MonkeyPatch, block_size: int, num_tokens: int
) -> None:
    """Also where the block is not a power of two, and the text as short as allowed."""
    monkeypatch.setattr(context, "MIN_PREDICTED", 40)
    model = lively_model(block_size=block_size)
    tokens = random_text(num_tokens)
    bigram = np.arange(num_tokens, dtype=np.float32)

    rows = bits_by_context(
        model,
        Losses(tokens, np.zeros(num_tokens, np.float32), bigram),
        batch_size=2,
    )

    lengths = [row.context for row in rows]
    assert lengths == sorted(
        {*(n for n in (1, 2, 4, 8, 16) if n < block_size), block_size}
    )
    # The whole numbers of the bigram give away which tokens were predicted, if few.
    region = 2 ** int(math.log2(block_size // 2))
    if num_tokens == block_size + 1:
        places = range(num_tokens - region, num_tokens)
        assert rows[0].bigram_bits == pytest.approx(np.mean(places))
        for row in rows:
            assert row.bits == pytest.approx(
                bits_token_by_token(model, tokens.tolist(), places, row.context),
                rel=1e-4,
            )


def bits_token_by_token(
    model: GPT, tokens: list[int], places: range, length: int
) -> float:
    """Return the same, each window read alone."""
    new = min(max(1, length // 2), len(places))
    total = 0.0
    for first in range(0, len(places), new):
        predicted = places[first : first + new]
        start = predicted[-1] - length
        with torch.inference_mode():
            logits = model(torch.tensor([tokens[start : predicted[-1]]]))[0]
        for place in predicted:
            log_probabilities = logits[place - 1 - start].log_softmax(-1)
            total -= log_probabilities[tokens[place]].item()
    return total / len(places) / math.log(2)
