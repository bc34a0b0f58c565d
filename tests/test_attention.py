"""Attention: two implementations of one formula."""

import math

import pytest
import torch
from torch import Tensor

from toygpt.model.attention import (
    ATTENTIONS,
    CausalSelfAttention,
    attention_from_scratch,
    flash_attention,
)


def random_heads(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, *shape, generator=generator)
    return query, key, value


@pytest.mark.parametrize("head_dim", [64, 96, 128])
@pytest.mark.parametrize("time", [1, 7, 33])
def test_from_scratch_equals_flash(time: int, head_dim: int) -> None:
    heads = random_heads(2, 3, time, head_dim)

    from_scratch, flash = attention_from_scratch(*heads), flash_attention(*heads)

    torch.testing.assert_close(from_scratch, flash, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head_dim", [64, 96, 128])
def test_from_scratch_equals_flash_in_its_gradient(head_dim: int) -> None:
    heads = [part.requires_grad_() for part in random_heads(2, 3, 17, head_dim)]
    direction = torch.randn(2, 3, 17, head_dim)

    from_scratch = torch.autograd.grad(attention_from_scratch(*heads), heads, direction)
    flash = torch.autograd.grad(flash_attention(*heads), heads, direction)

    for ours, theirs in zip(from_scratch, flash, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_gradient_is_that_of_the_value(attention: str) -> None:
    heads = [part.double().requires_grad_() for part in random_heads(1, 2, 4, 3)]

    assert torch.autograd.gradcheck(ATTENTIONS[attention], heads)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_who_asks_for_nothing_gets_the_mean_of_what_came_so_far(attention: str) -> None:
    query, key, value = random_heads(1, 1, 5, 4)

    mixed = ATTENTIONS[attention](torch.zeros_like(query), key, value)

    for time in range(5):
        expected = value[0, 0, : time + 1].mean(dim=0)
        torch.testing.assert_close(mixed[0, 0, time], expected)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_scores_are_divided_by_the_root_of_head_dim(attention: str) -> None:
    """With head_dim 4, a score of 2 ln 3 counts three times as much as one of 0."""
    query = torch.tensor([[[[0.0] * 4, [1.0, 0, 0, 0]]]])
    key = torch.tensor([[[[2 * math.log(3), 0, 0, 0], [0.0] * 4]]])
    value = torch.tensor([[[[1.0] * 4, [0.0] * 4]]])

    mixed = ATTENTIONS[attention](query, key, value)

    torch.testing.assert_close(mixed[0, 0, 1], torch.full((4,), 0.75))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("changed_part", [0, 1, 2])
def test_no_token_attends_to_a_later_one(attention: str, changed_part: int) -> None:
    heads = random_heads(2, 3, 9, 8)
    changed = [part.clone() for part in heads]
    changed[changed_part][:, :, 6:] += 1

    before, after = ATTENTIONS[attention](*heads), ATTENTIONS[attention](*changed)

    assert torch.equal(before[:, :, :6], after[:, :, :6])
    assert not torch.equal(before[:, :, 6:], after[:, :, 6:])


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_caller_s_tensors_stay_as_they_were(attention: str) -> None:
    heads = random_heads(1, 2, 5, 4)
    copies = [part.clone() for part in heads]

    ATTENTIONS[attention](*heads)

    for part, copy in zip(heads, copies, strict=True):
        assert torch.equal(part, copy)


def test_each_head_works_in_its_own_channels() -> None:
    torch.manual_seed(0)
    layer = CausalSelfAttention(embed_dim=12, num_heads=3, attention="from_scratch")
    x = torch.randn(2, 5, 12)

    mixed = layer(x)

    query, key, value = layer.to_query(x), layer.to_key(x), layer.to_value(x)
    one_by_one = [
        attention_from_scratch(
            query[:, None, :, channels], key[:, None, :, channels], part[:, None]
        )[:, 0]
        for channels, part in (
            (slice(first, first + 4), value[..., first : first + 4])
            for first in (0, 4, 8)
        )
    ]
    expected = layer.to_output(torch.cat(one_by_one, dim=-1))
    torch.testing.assert_close(mixed, expected)


def test_the_layer_uses_the_attention_that_was_asked_for() -> None:
    for name, attention in ATTENTIONS.items():
        layer = CausalSelfAttention(embed_dim=8, num_heads=2, attention=name)

        assert layer.attend is attention
