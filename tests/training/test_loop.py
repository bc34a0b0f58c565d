"""Training from end to end: what is learned, what is validated, what stops it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InductorError

from tests.tiny import BLOCK_SIZE, VOCAB_SIZE, tiny_model
from tests.training.trained import TOKENS_PER_STEP, VALIDATION_TEXT, trained
from toygpt.model.gpt import GPT, next_token_loss
from toygpt.pipeline.errors import InputError
from toygpt.training.loop import NextTokenLoss


def assert_same_weights(one: GPT, other: GPT) -> None:
    for weight, same in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, same)


def test_training_lowers_the_loss() -> None:
    """Each token has two followers, so that ln 2 is the best that can be reached."""
    result = trained(max_tokens=60 * TOKENS_PER_STEP, optimizer="muon")

    untrained = result.curves.train[0]["train_loss"]
    assert untrained == pytest.approx(math.log(VOCAB_SIZE), rel=0.05)
    assert math.log(2) < result.outcome.validation_loss < 2
    assert result.outcome.train_loss < untrained - 1


@pytest.mark.parametrize("micro_batch_size", [1, 3, 4])
def test_gradients_of_micro_batches_add_up_to_those_of_the_batch(
    micro_batch_size: int,
) -> None:
    whole = trained()
    parts = trained(runtime={"micro_batch_size": micro_batch_size})

    for one, other in zip(whole.curves.train, parts.curves.train, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    for (name, weight), same in zip(
        whole.model.named_parameters(), parts.model.parameters(), strict=True
    ):
        if not name.endswith("to_key.bias"):  # of no effect: its gradient is noise
            torch.testing.assert_close(same, weight, rtol=0, atol=1e-3)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_same_seed_gives_the_same_weights_to_the_last_bit(optimizer: str) -> None:
    """Also with dropout, and with other random numbers drawn before."""
    results = []
    for number in range(2):
        model = tiny_model(dropout=0.1)
        torch.manual_seed(number)
        results.append(trained(model, optimizer=optimizer, dropout=0.1))

    one, other = results
    assert one.outcome == other.outcome
    assert one.curves.train == other.curves.train
    assert_same_weights(one.model, other.model)


def test_another_seed_gives_other_weights() -> None:
    one, other = (trained(seed=seed).model.token_embedding.weight for seed in (1, 2))

    assert not torch.equal(one, other)


@pytest.mark.parametrize("micro_batch_size", [64, 4])
def test_dropout_differs_in_each_step_and_in_each_micro_batch(
    micro_batch_size: int,
) -> None:
    """Every batch is the same, and nothing is learned: only dropout moves the loss."""
    losses: list[float] = []
    model = tiny_model(dropout=0.5)
    model.register_forward_hook(
        lambda *hooked: (
            losses.append(hooked[2].sum().item()) if model.training else None
        )
    )

    trained(
        model,
        text=np.zeros(1_000, dtype=np.uint16),
        runtime={"micro_batch_size": micro_batch_size},
        dropout=0.5,
        learning_rate=1e-30,
    )

    assert len(losses) == len(set(losses)) == 10 * 8 // min(8, micro_batch_size)


def test_validation_leaves_training_as_it_is() -> None:
    seldom = trained(validate_every_tokens=10**9)
    often = trained(validate_every_tokens=1)

    assert len(often.curves.validation) > len(seldom.curves.validation)
    assert seldom.curves.train == often.curves.train
    assert_same_weights(seldom.model, often.model)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_validation_loss_is_that_of_blocks_spread_over_the_split(
    dropout: float,
) -> None:
    """Of 11 blocks in batches of 8, the last three count no more than the others."""
    result = trained(
        tiny_model(dropout=dropout),
        dropout=dropout,
        validation_tokens=11 * BLOCK_SIZE + 3,
    )

    text = torch.from_numpy(VALIDATION_TEXT.astype(np.int64))
    available = (len(text) - 1) // BLOCK_SIZE
    starts = [number * available // 11 * BLOCK_SIZE for number in range(11)]
    inputs = torch.stack([text[start : start + BLOCK_SIZE] for start in starts])
    targets = torch.stack([text[start + 1 :][:BLOCK_SIZE] for start in starts])
    expected = next_token_loss(result.model.eval()(inputs), targets)
    assert result.outcome.validation_loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_optimizer_uses_the_learning_rate_that_the_curve_shows(
    optimizer: str,
) -> None:
    """Biases of tokens that never come always sink, as fast as the rate allows."""
    result = trained(
        text=np.zeros(1_000, dtype=np.uint16),
        optimizer=optimizer,
        learning_rate=1e-5,
        muon_learning_rate=1e-5,
        warmup_tokens=4 * TOKENS_PER_STEP,
        decay_tokens=5 * TOKENS_PER_STEP,
    )

    sum_of_rates = sum(row["adamw_learning_rate"] for row in result.curves.train)
    assert result.model.to_logits.bias.tolist() == pytest.approx(
        [sum_of_rates, *[-sum_of_rates] * (VOCAB_SIZE - 1)], rel=1e-2
    )


def test_the_gradient_norm_is_reported_before_it_is_clipped() -> None:
    """Clipped to a hair, gradients stop moving what plain AdamW would normalise."""
    free, clipped = (
        trained(max_tokens=TOKENS_PER_STEP, gradient_clip_norm=norm)
        for norm in (1e9, 1e-12)
    )

    norms = [result.curves.train[0]["gradient_norm"] for result in (free, clipped)]
    assert norms[0] == norms[1] > 0.1
    start = tiny_model().token_embedding.weight
    moved = [
        (result.model.token_embedding.weight - start).abs().max().item()
        for result in (free, clipped)
    ]
    assert moved[0] > 1e-3 > 10 * moved[1]


@pytest.mark.parametrize(
    ("gain", "changes", "message"),
    [
        (1.0, {"learning_rate": 1e30}, r"diverged.*train\.learning_rate"),
        # The last training loss was still good; the weights are not.
        (1.0, {"learning_rate": 1e30, "max_tokens": 1}, "validation loss is"),
        (math.inf, {}, r"loss is (nan|inf) in step 1,"),
    ],
    ids=["at once", "in the last step", "from the start"],
)
def test_training_that_diverges_stops_and_says_what_to_change(
    gain: float, changes: dict[str, Any], message: str
) -> None:
    model = tiny_model()
    nn.init.constant_(model.final_norm.weight, gain)

    with pytest.raises(InputError, match=message):
        trained(model, **changes)


@pytest.mark.parametrize("is_compiling", [False, True])
def test_out_of_memory_names_the_parameter_that_helps(is_compiling: bool) -> None:
    """A GPU that is full raises this error in the middle of a step."""
    error: Exception = torch.OutOfMemoryError("CUDA out of memory")
    if is_compiling:  # as the compiler raises it
        error = BackendCompilerFailed(None, InductorError(error, None), None)
    model = tiny_model()
    calls = []

    def run_out_of_memory(*_: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise error

    model.register_forward_hook(run_out_of_memory)

    with pytest.raises(
        InputError,
        match=r"out of memory: micro-batches of 2 .*lower runtime\.micro_batch_size",
    ):
        trained(model, runtime={"micro_batch_size": 2})

    assert len(calls) == 3


def test_half_precision_trains_as_well() -> None:
    full = trained(precision="32-true")
    half = trained(precision="bf16-mixed")

    assert half.model.token_embedding.weight.dtype == torch.float32
    assert half.outcome.train_loss != full.outcome.train_loss
    assert half.outcome.train_loss == pytest.approx(full.outcome.train_loss, rel=0.02)


def test_the_network_is_compiled_with_its_loss_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[type[nn.Module]] = []
    monkeypatch.setattr(
        nn.Module, "compile", lambda module, **_: compiled.append(type(module))
    )

    for choice in (False, True):
        trained(runtime={"compile": choice}, max_tokens=1)

    assert compiled == [NextTokenLoss]
