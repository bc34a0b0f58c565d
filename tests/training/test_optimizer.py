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
from torch.optim import AdamW, Optimizer

from tests.tiny import random_tokens, tiny_model, train_params
from toygpt.model.gpt import GPT, next_token_loss
from toygpt.training.optimizer import MuonWithAdamW, build_optimizer, learning_rates
from toygpt.training.schedule import Schedule

OPTIMIZERS = ["muon", "adamw"]
BLOCK_MATRICES = {
    "attention.to_query.weight",
    "attention.to_key.weight",
    "attention.to_value.weight",
    "attention.to_output.weight",
    "feed_forward.to_hidden.weight",
    "feed_forward.to_output.weight",
}


def built(optimizer: str, *, seed: int = 1, **changes: Any) -> tuple[GPT, Optimizer]:
    """Return a model and the optimizer that trains it."""
    model = tiny_model(seed=seed)
    params = train_params(optimizer=optimizer, **changes)
    return model, build_optimizer(model, params, device=torch.device("cpu"))


def names_in(model: GPT, group: dict[str, Any]) -> set[str]:
    """Return the names of the weights that a group of an optimizer trains."""
    ids = {id(parameter) for parameter in group["params"]}
    return {name for name, weight in model.named_parameters() if id(weight) in ids}


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

    assert names_in(model, group) == {
        f"blocks.{number}.{name}" for number in (0, 1) for name in BLOCK_MATRICES
    }


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_every_weight_is_trained_by_exactly_one_group(optimizer_name: str) -> None:
    model, optimizer = built(optimizer_name)

    trained = [
        id(weight) for group in optimizer.param_groups for weight in group["params"]
    ]

    assert sorted(trained) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_weight_decay_pulls_on_the_matrices_of_the_blocks_alone(
    optimizer_name: str,
) -> None:
    model, optimizer = built(optimizer_name, weight_decay=0.3)

    decays = {
        name: group["weight_decay"]
        for group in optimizer.param_groups
        for name in names_in(model, group)
    }

    for name, decay in decays.items():
        is_block_matrix = name.partition(".")[2].partition(".")[2] in BLOCK_MATRICES
        assert decay == (0.3 if is_block_matrix else 0.0), name


def test_each_part_has_its_own_learning_rate() -> None:
    _, optimizer = built("muon", muon_learning_rate=0.07, learning_rate=0.003)
    assert isinstance(optimizer, MuonWithAdamW)

    rates = {
        name: {group["lr"] for group in part.param_groups}
        for name, part in optimizer.parts.items()
    }

    assert rates == {"muon": {0.07}, "adamw": {0.003}}


def test_adamw_alone_has_one_learning_rate() -> None:
    _, optimizer = built("adamw", muon_learning_rate=0.07, learning_rate=0.003)

    assert isinstance(optimizer, AdamW)
    assert {group["lr"] for group in optimizer.param_groups} == {0.003}


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_a_step_moves_every_weight(optimizer_name: str) -> None:
    model, optimizer = built(optimizer_name)
    before = {name: weight.clone() for name, weight in model.named_parameters()}

    learn(model, optimizer, steps=2)

    unmoved = [
        name
        for name, weight in model.named_parameters()
        if torch.equal(weight, before[name])
    ]
    assert not unmoved


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_steps_lower_the_loss(optimizer_name: str) -> None:
    model, optimizer = built(optimizer_name)
    inputs, targets = random_tokens(2, 4, 16)
    before = next_token_loss(model(inputs), targets).item()

    learn(model, optimizer, steps=20)

    assert next_token_loss(model(inputs), targets).item() < before - 1


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_an_optimizer_that_was_stored_continues_as_if_it_had_not_been(
    optimizer_name: str,
) -> None:
    model, optimizer = built(optimizer_name)
    learn(model, optimizer, steps=3)
    weights = copy.deepcopy(model.state_dict())
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    uninterrupted = learn(model, optimizer, steps=3)

    restored_model, restored = built(optimizer_name, seed=2)
    restored_model.load_state_dict(weights)
    restored.load_state_dict(torch.load(file, weights_only=True))
    resumed = learn(restored_model, restored, steps=3)

    for one, other in zip(uninterrupted, resumed, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_an_optimizer_without_its_state_goes_elsewhere(optimizer_name: str) -> None:
    """The test above could not fail if there were no state to restore."""
    model, optimizer = built(optimizer_name)
    learn(model, optimizer, steps=3)
    weights = copy.deepcopy(model.state_dict())
    uninterrupted = learn(model, optimizer, steps=3)

    restored_model, forgetful = built(optimizer_name, seed=2)
    restored_model.load_state_dict(weights)
    resumed = learn(restored_model, forgetful, steps=3)

    for name, one, other in zip(
        dict(model.named_parameters()), uninterrupted, resumed, strict=True
    ):
        assert not torch.equal(one, other), name


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_torch_s_own_tools_read_and_write_the_state(optimizer_name: str) -> None:
    """So do those for sharded checkpoints, which name each weight's state."""
    model, optimizer = built(optimizer_name)
    learn(model, optimizer, steps=3)
    weights = copy.deepcopy(model.state_dict())
    by_name = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    uninterrupted = learn(model, optimizer, steps=3)

    restored_model, restored = built(optimizer_name, seed=2)
    restored_model.load_state_dict(weights)
    set_optimizer_state_dict(restored_model, restored, by_name)
    resumed = learn(restored_model, restored, steps=3)

    assert set(by_name["state"]) == {name for name, _ in model.named_parameters()}
    for one, other in zip(uninterrupted, resumed, strict=True):
        assert torch.equal(one, other)


def test_the_state_has_the_form_of_every_optimizer() -> None:
    _, optimizer = built("muon")

    state = optimizer.state_dict()

    assert set(state) == {"state", "param_groups"}
    assert [group["lr"] for group in state["param_groups"]] == [2e-2, 5e-3]


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
