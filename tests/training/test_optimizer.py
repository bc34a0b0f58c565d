"""Which weight is trained by what."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from tests.tiny import random_tokens, tiny_model, train_params
from toygpt.model.gpt import GPT, next_token_loss
from toygpt.training.optimizer import MuonWithAdamW, build_optimizer, learning_rates
from toygpt.training.schedule import Schedule

OPTIMIZERS = ["muon", "adamw"]
BLOCK_MATRICES = {
    f"blocks.{number}.{name}.weight"
    for number in (0, 1)
    for name in (
        *(f"attention.to_{part}" for part in ("query", "key", "value", "output")),
        *("feed_forward.to_hidden", "feed_forward.to_output"),
    )
}


def built(optimizer: str, *, seed: int = 1, **changes: Any) -> tuple[GPT, Optimizer]:
    """Return a model and the optimizer that trains it."""
    model = tiny_model(seed=seed)
    params = train_params(optimizer=optimizer, **changes)
    return model, build_optimizer(model, params)


def names_in(model: GPT, group: dict[str, Any]) -> list[str]:
    """Return the names of the weights that a group of an optimizer trains."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    return [names[id(weight)] for weight in group["params"]]


def learn(model: GPT, optimizer: Optimizer, *, steps: int) -> list[Tensor]:
    """Take some steps, always on the same batch, and return the weights."""
    inputs, targets = random_tokens(2, 4, 16)
    for _ in range(steps):
        optimizer.zero_grad()
        next_token_loss(model(inputs), targets).backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_muon_gets_the_matrices_of_the_blocks_and_no_other_weight() -> None:
    model, optimizer = built("muon")
    assert isinstance(optimizer, MuonWithAdamW)

    (group,) = optimizer.parts["muon"].param_groups

    assert set(names_in(model, group)) == BLOCK_MATRICES


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_each_weight_is_in_one_group_and_decay_pulls_on_matrices_of_blocks_alone(
    optimizer_name: str,
) -> None:
    model, optimizer = built(optimizer_name, weight_decay=0.3)

    decays = [
        (name, group["weight_decay"])
        for group in optimizer.param_groups
        for name in names_in(model, group)
    ]

    assert sorted(decays) == sorted(
        (name, 0.3 if name in BLOCK_MATRICES else 0.0)
        for name, _ in model.named_parameters()
    )


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_a_schedule_sets_all_learning_rates(optimizer_name: str) -> None:
    """After the last step they are zero, and nothing moves: every weight is reached."""
    model, optimizer = built(optimizer_name, max_tokens=100, decay_tokens=100)
    params = train_params(max_tokens=100, decay_tokens=100)
    schedule = Schedule(optimizer, params, tokens_per_step=50)
    learn(model, optimizer, steps=1)
    highest = learning_rates(optimizer)

    schedule.set_learning_rates(1)
    halves = learning_rates(optimizer)
    schedule.set_learning_rates(2)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    after = learn(model, optimizer, steps=1)

    assert halves == {name: rate / 2 for name, rate in highest.items()}
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)


def test_a_step_runs_the_closure_with_gradients() -> None:
    """As every optimizer of PyTorch does."""
    model, optimizer = built("muon")
    inputs, targets = random_tokens(2, 4, 16)
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def closure() -> float:
        optimizer.zero_grad()
        loss = next_token_loss(model(inputs), targets)
        loss.backward()
        return loss.item()

    loss = optimizer.step(closure)

    assert loss > 0
    assert not any(map(torch.equal, before, model.parameters()))
