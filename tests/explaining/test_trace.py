"""A trace is what the network itself computed."""

import pytest
import torch

from tests.tiny import lively_model, random_tokens
from toygpt.explaining.trace import listening, trace

TOKEN_IDS = random_tokens(12).tolist()


@torch.inference_mode()
def test_the_additions_sum_up_to_what_the_final_norm_received() -> None:
    model = lively_model()
    received = []
    hook = model.final_norm.register_forward_pre_hook(
        lambda _module, inputs: received.append(inputs[0][0])
    )

    stream = trace(model, TOKEN_IDS).stream

    hook.remove()
    assert len(stream) == 2 + 2 * model.config.num_layers
    torch.testing.assert_close(stream[-1], received[0], rtol=0, atol=1e-4)


@torch.inference_mode()
def test_the_logits_are_those_of_the_model() -> None:
    model = lively_model()

    assert torch.equal(
        trace(model, TOKEN_IDS).logits, model(torch.tensor([TOKEN_IDS]))[0]
    )


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["flash", "from_scratch"])
def test_the_shares_give_what_attention_returned(attention: str) -> None:
    """In every layer, also if a fused kernel computed it."""
    model = lively_model(attention=attention)

    traced = trace(model, TOKEN_IDS)

    with listening(model) as heard:
        model(torch.tensor([TOKEN_IDS]))
    for layer, shares in enumerate(traced.shares):
        name = f"blocks.{layer}.attention"
        value = heard[f"{name}.to_value"][0].unflatten(-1, (2, -1)).transpose(0, 1)
        mixed = (shares @ value).transpose(0, 1).flatten(start_dim=1)
        attended = model.get_submodule(f"{name}.to_output")(mixed)
        torch.testing.assert_close(attended, traced.additions[2 + 2 * layer])


def test_no_hook_remains_even_after_an_error() -> None:
    model = lively_model()

    with pytest.raises(ValueError, match="looks back over at most 16"):
        trace(model, [1] * 17)

    assert not any(module._forward_hooks for module in model.modules())
