"""The network: what every language model must do, and what is special about ours."""

import math

import pytest
import torch

from tests.project import PROJECT
from tests.tiny import (
    BLOCK_SIZE,
    VOCAB_SIZE,
    lively_model,
    predictable_text,
    random_tokens,
    runtime_params,
    tiny_model,
    train_params,
)
from toygpt.model.attention import ATTENTIONS
from toygpt.model.gpt import GPT, GPTConfig, next_token_loss
from toygpt.pipeline.params_file import load_params
from toygpt.training.launch import launch
from toygpt.training.loop import train
from toygpt.training.report import Curves


def test_an_untrained_network_predicts_tokens_as_often_as_the_text_has_them() -> None:
    counts = torch.arange(VOCAB_SIZE) ** 2
    model = tiny_model()

    model.start_at_frequencies(counts)

    predicted = model(random_tokens(4, BLOCK_SIZE)).softmax(dim=-1)
    expected = (counts + 1) / (counts + 1).sum()
    torch.testing.assert_close(
        predicted, expected.expand_as(predicted), rtol=0.5, atol=1e-3
    )
    assert predicted.min() > 0


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("place", [1, BLOCK_SIZE - 1])
def test_no_token_sees_a_later_one(attention: str, place: int) -> None:
    """Changing a token leaves the logits before it exactly as they were."""
    model = lively_model(attention=attention)
    tokens = random_tokens(2, BLOCK_SIZE)
    changed = tokens.clone()
    changed[:, place] = (changed[:, place] + 1) % VOCAB_SIZE

    before, after = model(tokens), model(changed)

    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.equal(before[:, place], after[:, place])


def test_sequences_of_a_batch_and_their_lengths_do_not_matter() -> None:
    """Each sequence gets the logits that it, or its beginning, would get alone."""
    model = lively_model()
    tokens = random_tokens(3, BLOCK_SIZE)

    logits = model(tokens)

    for row in range(3):
        alone = model(tokens[row : row + 1, :5])[0]
        torch.testing.assert_close(logits[row, :5], alone, rtol=1e-4, atol=1e-4)


def test_twenty_steps_of_training_reach_a_known_loss() -> None:
    """Of all tests, only this one notices a forgotten residual connection.

    A change that is meant to leave training as it is must leave these numbers, too.
    """
    outcome = train(
        launch(runtime_params(), precision="32-true"),
        tiny_model(num_layers=3),
        predictable_text(5_000, seed=1),
        predictable_text(1_000, seed=2),
        params=train_params(
            max_tokens=20 * 8 * BLOCK_SIZE,
            warmup_tokens=4 * 8 * BLOCK_SIZE,
            decay_tokens=8 * 8 * BLOCK_SIZE,
        ),
        runtime=runtime_params(),
        seed=1,
        curves=Curves(),
    )

    assert outcome.train_loss == pytest.approx(3.70372, rel=1e-4)
    assert outcome.validation_loss == pytest.approx(3.66839, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [("small", 123_703_633), ("medium", 253_055_057), ("large", 1_311_579_217)],
)
def test_the_sizes_in_params_have_their_known_numbers_of_parameters(
    name: str, num_parameters: int
) -> None:
    size = load_params(PROJECT / "params.yaml").models[name]
    config = GPTConfig(vocab_size=50_257, dropout=0.0, **size.model_dump())
    with torch.device("meta"):  # the shapes alone, without numbers
        model = GPT(config)

    assert model.num_parameters == config.num_parameters == num_parameters


def test_a_sequence_longer_than_the_model_looks_back_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got 17 tokens.*at most 16.*block_size"):
        tiny_model()(random_tokens(1, BLOCK_SIZE + 1))


def test_dropout_is_for_training_alone() -> None:
    model = tiny_model(dropout=0.5)
    tokens = random_tokens(1, BLOCK_SIZE)

    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_the_loss_is_the_mean_of_minus_log_the_probability_of_what_came() -> None:
    probabilities = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]])
    targets = torch.tensor([[1, 2]])

    loss = next_token_loss(probabilities.log(), targets)

    assert loss.item() == pytest.approx(-(math.log(0.25) + math.log(0.8)) / 2)


def test_the_loss_of_half_precise_logits_is_computed_in_full_precision() -> None:
    logits = 10 * torch.randn(2, 8, VOCAB_SIZE).bfloat16()
    targets = random_tokens(2, 8)

    loss = next_token_loss(logits, targets)

    assert loss.dtype == torch.float32
    assert torch.equal(loss, next_token_loss(logits.float(), targets))
