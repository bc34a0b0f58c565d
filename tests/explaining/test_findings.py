"""What a trace shows equals what the network computes, or is measured in it."""

import pytest
import torch
from torch import Tensor

from tests.tiny import lively_model, random_tokens
from toygpt.explaining.findings import (
    habit,
    logits_after_each_part,
    probabilities_without_each_head,
)
from toygpt.explaining.trace import trace

TOKEN_IDS = random_tokens(12).tolist()
WANTED = random_tokens(12, seed=1).tolist()


@torch.inference_mode()
def test_the_last_guess_is_what_the_model_predicts() -> None:
    model = lively_model()
    traced = trace(model, TOKEN_IDS)

    *_, last = logits_after_each_part(model, traced)

    torch.testing.assert_close(last, traced.logits)


@torch.inference_mode()
def test_a_silenced_head_is_one_whose_output_weights_are_zero() -> None:
    model = lively_model()
    head_dim = model.config.embed_dim // model.config.num_heads

    probabilities = probabilities_without_each_head(
        model, trace(model, TOKEN_IDS), WANTED
    )

    for layer in range(2):
        for head in range(2):
            without = lively_model()
            to_output = without.get_submodule(f"blocks.{layer}.attention.to_output")
            columns = slice(head * head_dim, (head + 1) * head_dim)
            assert isinstance(to_output, torch.nn.Linear)
            to_output.weight[:, columns] = 0
            expected = without(torch.tensor([TOKEN_IDS]))[0].softmax(dim=-1)
            torch.testing.assert_close(
                probabilities[layer, head],
                expected[range(12), WANTED],
                rtol=1e-4,
                atol=1e-6,
            )
    assert not any(module._forward_pre_hooks for module in model.modules())


def looking_at(place_of: dict[int, int], size: int) -> Tensor:
    """Return shares by which each token looks mostly at one place, else at its own."""
    shares = 0.1 / torch.arange(1, size + 1)[:, None] * torch.ones(size, size).tril()
    for now in range(size):
        shares[now, place_of.get(now, now)] += 0.9
    return shares


@pytest.mark.parametrize(
    ("place_of", "expected"),
    [
        ({}, "itself"),
        ({now: now - 1 for now in range(1, 8)}, "the token before"),
        (dict.fromkeys(range(8), 0), "the first token"),
        ({4: 0, 5: 1, 6: 2, 7: 3}, "earlier places of the same token"),
        ({4: 1, 5: 2, 6: 3, 7: 4}, "what followed the same token earlier"),
    ],
)
def test_a_clear_habit_has_a_name(place_of: dict[int, int], expected: str) -> None:
    name, share = habit(looking_at(place_of, 8), [5, 6, 7, 8, 5, 6, 7, 8])

    assert name == expected
    assert share > 0.85


@pytest.mark.parametrize("token_ids", [[5, 6, 7, 8] * 2, [1] * 8, [1, 2], [1]])
def test_a_head_that_looks_everywhere_alike_has_no_habit(token_ids: list[int]) -> None:
    """Nor has one of which there are too few rows to say."""
    size = len(token_ids)
    shares = torch.ones(size, size).tril() / torch.arange(1, size + 1)[:, None]

    assert habit(shares, token_ids) == ("", 0.0)
