"""The faster forms compute what the network computes as it reads."""

from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from tests.tiny import lively_model, random_tokens, tiny_model
from tests.training.trained import trained
from toygpt.model.gpt import GPT
from toygpt.training.fused import (
    FusedNextTokenLoss,
    fuse,
    join_query_key_value,
    keep_stream_in_16_bits,
    put_relu_into_the_product,
    unfuse,
)
from toygpt.training.loop import NextTokenLoss

FORMS = {
    "query, key and value": join_query_key_value,
    "relu": put_relu_into_the_product,
    "stream": keep_stream_in_16_bits,
    "all": fuse,
}
INPUTS, TARGETS = random_tokens(2, 4, 16)


def loss_and_gradients(
    model: GPT, network: nn.Module, *, is_mixed: bool = False
) -> list[Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
        loss = network(INPUTS, TARGETS)
    loss.backward()
    gradients = [weight.grad for weight in model.parameters()]
    return [loss.detach(), *(g.clone() for g in gradients if g is not None)]


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    """Return the relative error of loss and gradients together."""
    one, other = (
        torch.cat([t.double().flatten() for t in ts]) for ts in (found, exact)
    )
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_in_32_bits_a_form_changes_nothing_but_the_last_digits(
    form: Callable[[GPT], None],
) -> None:
    model = lively_model().train()
    network = NextTokenLoss(model)
    plain = loss_and_gradients(model, network)

    form(model)

    assert error(loss_and_gradients(model, network), plain) < 1e-5
    unfuse(model)
    again = loss_and_gradients(model, network)
    assert all(map(torch.equal, again, plain))


def test_relu_inside_the_product_is_equal_bit_for_bit() -> None:
    for is_mixed in (False, True):
        model = lively_model().train()
        network = NextTokenLoss(model)
        plain = loss_and_gradients(model, network, is_mixed=is_mixed)

        put_relu_into_the_product(model)

        found = loss_and_gradients(model, network, is_mixed=is_mixed)
        assert all(map(torch.equal, found, plain))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_in_mixed_precision_a_form_is_about_as_exact(
    form: Callable[[GPT], None],
) -> None:
    """The stream rounds in each block: errors of a thousandth, not of half of one."""
    model = tiny_model()
    network = NextTokenLoss(model)
    exact = loss_and_gradients(model, network)
    plain = loss_and_gradients(model, network, is_mixed=True)

    form(model)

    found = loss_and_gradients(model, network, is_mixed=True)
    assert error(found, exact) < 3 * error(plain, exact) < 0.002


def test_the_fused_network_is_as_exact_and_validates_to_the_same_loss() -> None:
    model = tiny_model()
    exact = loss_and_gradients(model, NextTokenLoss(model))
    plain = loss_and_gradients(model, NextTokenLoss(model), is_mixed=True)

    network = FusedNextTokenLoss(model)
    found = loss_and_gradients(model, network, is_mixed=True)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        validated = network.eval()(INPUTS, TARGETS)

    assert error(found, exact) < 3 * error(plain, exact)
    assert validated == found[0]


def test_the_stream_is_rounded_once_where_it_begins() -> None:
    model = tiny_model()
    seen: list[torch.dtype] = []
    for block in model.blocks:
        block.register_forward_hook(lambda *hooked: seen.append(hooked[2].dtype))

    for change in (unfuse, fuse):
        change(model)
        with torch.autocast("cpu", torch.bfloat16):
            model(INPUTS)

    assert seen == [torch.float32] * 2 + [torch.bfloat16] * 2


def test_dropout_drops_the_same() -> None:
    model = tiny_model(dropout=0.5).train()
    network = NextTokenLoss(model)
    losses = []

    for change in (unfuse, fuse):
        change(model)
        torch.manual_seed(3)
        losses.append(network(INPUTS, TARGETS).item())

    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    model.eval()
    assert network(INPUTS, TARGETS).item() != pytest.approx(losses[0], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("is_mixed", [False, True])
def test_the_fused_network_is_compiled_in_one_piece(
    monkeypatch: pytest.MonkeyPatch, is_mixed: bool
) -> None:
    """With gradients and without; `aot_eager` traces all that the compiler does."""
    # The compiler cannot read the checks of shapes that tests add.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model = tiny_model(num_layers=1)
    network = FusedNextTokenLoss(model)
    plain = loss_and_gradients(model, network, is_mixed=is_mixed)
    compiled: Any = torch.compile(
        network, backend="aot_eager", fullgraph=True, dynamic=False
    )

    found = loss_and_gradients(model, compiled, is_mixed=is_mixed)
    with torch.inference_mode(), torch.autocast("cpu", enabled=is_mixed):
        validated = compiled(INPUTS, TARGETS)

    assert error(found, plain) < 1e-6
    assert validated.item() == pytest.approx(plain[0].item(), rel=1e-6)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_training_with_fused_kernels_learns_the_same(precision: str) -> None:
    plain, fused = (
        trained(kernels=kernels, precision=precision) for kernels in ("plain", "fused")
    )

    assert fused.outcome.train_loss == pytest.approx(plain.outcome.train_loss, rel=0.01)
    assert fused.outcome.train_loss < 4
    assert not any("forward" in vars(module) for module in fused.model.modules())
    for name, weight in fused.model.state_dict().items():
        assert weight.dtype == torch.float32, name
        assert weight.shape == plain.model.state_dict()[name].shape
