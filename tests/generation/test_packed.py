"""A packed model computes what the model computes."""

import pytest
import torch
from torch import nn

from tests.tiny import BLOCK_SIZE, lively_model, random_tokens, tiny_model
from toygpt.generation import packed
from toygpt.generation.packed import PackedLinear, can_pack, pack
from toygpt.model.gpt import GPT

needs_kernels = pytest.mark.skipif(
    not can_pack(torch.device("cpu")),
    reason="PyTorch has no kernels for packed matrices on this processor",
)


def packed_layers(model: GPT) -> set[str]:
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, PackedLinear)
    }


@needs_kernels
@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 1, 5), (2, 7, 5)])
def test_a_packed_layer_is_its_linear_layer(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 3), torch.randn(shape)

    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(layer)(x), layer(x))


@pytest.mark.parametrize("has_kernels", [True, False])
def test_the_logits_are_the_same(
    has_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without dropout, in training mode too; the model stays as it was."""
    monkeypatch.setattr(packed, "MIN_WEIGHTS", 0)
    if not has_kernels:
        monkeypatch.setattr(packed, "can_pack", lambda device: False)
    model, tokens = lively_model(dropout=0.5), random_tokens(2, BLOCK_SIZE)
    expected = model(tokens)

    packed_model = pack(model.train())

    with torch.inference_mode():
        logits = packed_model(tokens)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    is_packed = has_kernels and can_pack(model.device)
    assert len(packed_layers(packed_model)) == (13 if is_packed else 0)
    assert model.training
    assert not packed_layers(model)
    assert packed_model.token_embedding.weight is model.token_embedding.weight


@needs_kernels
def test_only_large_matrices_are_packed() -> None:
    """Of the model `nano`, the output layer alone."""
    model = tiny_model(vocab_size=2048, embed_dim=256)

    assert packed_layers(pack(model)) == {"to_logits"}


def test_in_64_bits_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MIN_WEIGHTS", 0)
    model, tokens = lively_model().double(), random_tokens(2, BLOCK_SIZE)

    assert torch.equal(pack(model)(tokens), model(tokens))
