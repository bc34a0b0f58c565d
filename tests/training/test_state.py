"""The mean loss between two reports, which a checkpoint may interrupt."""

import torch
from torch import nn

from tests.tiny import runtime_params
from toygpt.training.divergence import DivergenceWatch
from toygpt.training.launch import launch
from toygpt.training.report import Curves
from toygpt.training.state import State


def new_state() -> State:
    """Return the state of a network that has taken a step."""
    network = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(2)).backward()
    optimizer.step()
    fabric = launch(runtime_params(), precision="32-true")
    return State(fabric, network, optimizer, Curves(None))


def losses(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value) for value in values]


def test_a_report_begins_a_new_mean_which_a_checkpoint_keeps() -> None:
    state, resumed = new_state(), new_state()
    state.add(losses(2.0, 4.0))
    assert state.report_train_loss() == 3.0
    state.add(losses(1.0))

    resumed.load(state.checkpoint(DivergenceWatch()))

    assert resumed.train_loss == 3.0
    assert state.mean_loss() == resumed.mean_loss() == 1.0
    resumed.add(losses(3.0))
    assert resumed.step == 3
    assert resumed.report_train_loss() == 2.0
