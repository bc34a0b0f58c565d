"""Which weight is trained by what, and that its state survives a checkpoint."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
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
@pytest.mark.parametrize("restored_by", ["a file", "PyTorch's own tools", "nothing"])
def test_an_optimizer_continues_from_its_state_as_if_it_had_not_been_stored(
    optimizer_name: str, restored_by: str
) -> None:
    """Without its state it goes elsewhere, or this could not fail.

    PyTorch's tools are those for sharded checkpoints, which name each weight's state.
    """
    model, optimizer = built(optimizer_name)
    learn(model, optimizer, steps=3)
    weights = copy.deepcopy(model.state_dict())
    torch.save(optimizer.state_dict(), file := io.BytesIO())
    by_name = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    uninterrupted = learn(model, optimizer, steps=3)

    restored_model, restored = built(optimizer_name, seed=2)
    restored_model.load_state_dict(weights)
    if restored_by == "a file":
        file.seek(0)
        restored.load_state_dict(torch.load(file, weights_only=True))
    elif restored_by == "PyTorch's own tools":
        assert set(by_name["state"]) == {name for name, _ in model.named_parameters()}
        set_optimizer_state_dict(restored_model, restored, by_name)
    resumed = learn(restored_model, restored, steps=3)

    for one, other in zip(uninterrupted, resumed, strict=True):
        assert torch.equal(one, other) == (restored_by != "nothing")


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("was_restored", [False, True])
def test_a_schedule_sets_all_learning_rates(
    optimizer_name: str, was_restored: bool
) -> None:
    """After the last step they are zero, and nothing moves: every weight is reached."""
    model, optimizer = built(optimizer_name, max_tokens=100, decay_tokens=100)
    params = train_params(max_tokens=100, decay_tokens=100)
    schedule = Schedule(optimizer, params, tokens_per_step=50)
    learn(model, optimizer, steps=1)
    if was_restored:
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
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
