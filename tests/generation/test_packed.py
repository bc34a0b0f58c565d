"""The network, arranged for writing, computes what the GPT computes."""

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import BLOCK_SIZE, lively_model, random_tokens
from toygpt.generation import packed as inference
from toygpt.generation.engine import generate_together
from toygpt.generation.packed import InferenceGPT, Product
from toygpt.model.gpt import GPT


@pytest.fixture(params=["packed", "plain"])
def is_packed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let matrices be packed, or not, as on a GPU."""
    if request.param == "packed" and not inference.can_pack(torch.device("cpu")):
        pytest.skip("PyTorch has no kernels for packed matrices on this processor")
    if request.param == "plain":
        monkeypatch.setattr(inference, "can_pack", lambda device: False)
    return bool(request.param == "packed")


def logits_in_parts(model: GPT, tokens: Tensor, num_first: int) -> Tensor:
    """Return the logits of texts of which the model reads only the start at once."""
    inference_model = InferenceGPT(model)
    rows = range(len(tokens))
    cache = inference_model.new_cache(len(tokens))
    parts = []
    for part in tokens.split([num_first] + [1] * (tokens.shape[1] - num_first), dim=1):
        cache.make_room(rows, [part.shape[1]] * len(tokens))
        parts.append(inference_model.to_logits(inference_model.read_on(part, cache)))
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("num_first", range(1, BLOCK_SIZE + 1))
def test_the_logits_are_the_same(is_packed: bool, num_first: int) -> None:
    model = lively_model()
    tokens = random_tokens(2, BLOCK_SIZE)

    logits = logits_in_parts(model, tokens, num_first)

    torch.testing.assert_close(logits, model(tokens), rtol=1e-4, atol=1e-4)


def test_what_only_training_needs_is_left_out() -> None:
    """Dropout above all, whatever mode the model is in."""
    model = lively_model(dropout=0.5)
    tokens = random_tokens(2, BLOCK_SIZE)

    logits = logits_in_parts(model.train(), tokens, num_first=3)

    expected = model.eval()(tokens)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 1, 5), (2, 7, 5)])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_a_product_is_what_linear_layers_make_side_by_side(
    is_packed: bool, num_layers: int, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 2 + number) for number in range(num_layers)]
    x = torch.randn(shape)
    expected = torch.cat([layer(x) for layer in layers], dim=-1)
    stream = torch.randn_like(expected)
    before = stream.clone()

    product = Product(*layers)

    assert product.is_packed == is_packed
    with torch.inference_mode():
        torch.testing.assert_close(product(x), expected)
        torch.testing.assert_close(product(x, relu=True), expected.relu())
        torch.testing.assert_close(product(x, added_to=stream), stream + expected)
    assert torch.equal(stream, before)


def test_a_product_does_not_do_both() -> None:
    """Packed, it would forget one of them."""
    with pytest.raises(AssertionError, match="one of them"):
        Product(nn.Linear(5, 5))(torch.ones(5), relu=True, added_to=torch.ones(5))


def test_in_64_bits_it_computes_in_64_bits() -> None:
    model = lively_model().double()
    tokens = random_tokens(2, BLOCK_SIZE)

    logits = logits_in_parts(model, tokens, num_first=3)

    torch.testing.assert_close(logits, model(tokens), rtol=1e-12, atol=1e-12)


def test_texts_of_different_lengths_are_written_side_by_side(is_packed: bool) -> None:
    model = InferenceGPT(lively_model(seed=5))
    prompts = [random_tokens(num, seed=num).tolist() for num in (5, 1, 16, 9)]

    def write(prompts: list[list[int]]) -> list[dict[int, int]]:
        return list(
            generate_together(model, prompts, max_new_tokens=40, end_of_text_id=-1)
        )

    together = write(prompts)

    for number, prompt in enumerate(prompts):
        alone = [ids[0] for ids in write([prompt])]
        assert [ids[number] for ids in together] == alone
