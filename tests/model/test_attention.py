"""Attention: one formula, computed in four ways."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from toygpt.model.attention import (
    ATTENTIONS,
    Attention,
    CausalSelfAttention,
    attention_from_scratch,
    attention_in_tiles,
    attention_one_by_one,
    flash_attention,
)

# Tiles of two: the sequences below are short, and one tile alone would hide a mistake.
RUNGS: dict[str, Attention] = {
    "one_by_one": attention_one_by_one,
    "from_scratch": attention_from_scratch,
    "in_tiles": attention_in_tiles,
    "in_tiles_of_two": partial(attention_in_tiles, tile=2),
    "in_tiles_of_eight": partial(attention_in_tiles, tile=8),
    "flash": flash_attention,
}
every_rung = pytest.mark.parametrize("attention", RUNGS.values(), ids=RUNGS.keys())


class LargestTensor(TorchDispatchMode):
    """The size of the largest tensor that is made inside its `with` block."""

    num_numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation, and measure its result."""
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.num_numbers = max(self.num_numbers, made.numel())
        return made


def random_heads(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, *shape, generator=generator)
    return query, key, value


def value_and_gradients(
    attention: Attention, heads: tuple[Tensor, Tensor, Tensor]
) -> list[Tensor]:
    """Return the output, and the gradient of a random part of it for each input."""
    inputs = [part.clone().requires_grad_() for part in heads]
    direction = torch.randn(
        heads[0].shape, generator=torch.Generator().manual_seed(1), dtype=heads[0].dtype
    )
    mixed = attention(inputs[0], inputs[1], inputs[2])
    return [mixed.detach(), *torch.autograd.grad(mixed, inputs, direction)]


@every_rung
@pytest.mark.parametrize(("time", "head_dim"), [(1, 64), (7, 96), (16, 128), (33, 96)])
def test_every_rung_computes_the_same(
    attention: Attention, time: int, head_dim: int
) -> None:
    """Less than a tile of 16 or 8, a whole one, one token less, and two and a bit."""
    heads = random_heads(2, 2, time, head_dim)

    computed = value_and_gradients(attention, heads)

    expected = value_and_gradients(attention_from_scratch, heads)
    for ours, theirs in zip(computed, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@every_rung
@pytest.mark.parametrize("sign", [1, -1])
def test_among_enormous_scores_the_highest_takes_all(
    attention: Attention, sign: int
) -> None:
    """e to the power of 10 000 is more than a float can hold, and below it is zero.

    The scores of the last token rise from 10 000 to 90 000, or fall: in tiles, the
    highest so far then changes with every tile, or with none.
    """
    time = 9
    place = torch.arange(1, time + 1, dtype=torch.float32)
    key = torch.zeros(1, 1, time, 4)
    key[0, 0, :, 0] = 1e4 * place * sign
    query = torch.zeros(1, 1, time, 4)
    query[..., 0] = 2  # the root of head_dim, which divides it again
    value = random_heads(1, 1, time, 4)[2]

    mixed, *gradients = value_and_gradients(attention, (query, key, value))

    likes_best = place.long() - 1 if sign == 1 else torch.zeros(time).long()
    torch.testing.assert_close(mixed, value[:, :, likes_best])
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("rung", "num_numbers"), [("from_scratch", 24 * 24), ("in_tiles_of_eight", 8 * 8)]
)
def test_attention_in_tiles_never_holds_more_scores_than_a_tile(
    rung: str, num_numbers: int
) -> None:
    heads = random_heads(1, 1, 24, 2)

    with LargestTensor() as largest:  # type: ignore[no-untyped-call]
        RUNGS[rung](*heads)

    assert largest.num_numbers == num_numbers


def test_each_head_works_in_its_own_channels() -> None:
    torch.manual_seed(0)
    layer = CausalSelfAttention(embed_dim=12, num_heads=3, attention="from_scratch")
    x = torch.randn(2, 5, 12)

    mixed = layer(x)

    parts = [layer.to_query(x), layer.to_key(x), layer.to_value(x)]
    heads = [
        attention_from_scratch(*(part[:, None, :, first : first + 4] for part in parts))
        for first in (0, 4, 8)
    ]
    expected = layer.to_output(torch.cat(heads, dim=-1)[:, 0])
    torch.testing.assert_close(mixed, expected)


def test_the_layer_uses_the_attention_that_was_asked_for() -> None:
    for name, attention in ATTENTIONS.items():
        layer = CausalSelfAttention(embed_dim=8, num_heads=2, attention=name)

        assert layer.attend is attention
