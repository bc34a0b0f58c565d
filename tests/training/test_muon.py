"""Muon, one by one and in stacks: as exact as PyTorch's own, with the same state."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Muon

from toygpt.training import muon, owners
from toygpt.training.muon import FastMuon, orthogonalize

SHAPES = {"square": (64, 64), "wide": (32, 128), "tall": (128, 32)}
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the defaults of torch.optim.Muon
five_times = partial(
    orthogonalize, coefficients=COEFFICIENTS, iterations=5, epsilon=1e-7
)


def gradient_of(
    shape: tuple[int, ...], *, rank: int | None = None, seed: int
) -> Tensor:
    """Return a random matrix; with a rank, one of so many directions, and noise."""
    generator = torch.Generator().manual_seed(seed)
    random = partial(torch.randn, generator=generator)
    if rank is None:
        return random(*shape)
    signal = random(shape[0], rank) @ random(rank, shape[1])
    return signal + 1e-4 * signal.std() * random(*shape)


def iterate_exactly(gradient: Tensor) -> Tensor:
    """Return the same in 64 bits, from the singular values."""
    u, values, v = torch.linalg.svd(gradient.double(), full_matrices=False)
    a, b, c = COEFFICIENTS
    values = values / values.norm()
    for _ in range(5):
        values = values * (a + b * values**2 + c * values**4)
    return (u * values) @ v


def error(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("rank", [None, 16, 1])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_stack_is_orthogonalized_more_exactly_than_by_pytorch(
    shape: tuple[int, int], rank: int | None
) -> None:
    """Also where the gradients have few directions: a Gram matrix drifts away there."""
    gradients = torch.stack([gradient_of(shape, rank=rank, seed=n) for n in range(3)])

    found = five_times(gradients, dtype=torch.float16)

    assert found.dtype == torch.float16
    weight = torch.nn.Parameter(torch.zeros(shape))
    for gradient, ours in zip(gradients, found, strict=True):
        exact = iterate_exactly(gradient)
        weight.data.zero_()
        weight.grad = gradient
        Muon([weight], lr=1.0, momentum=0, adjust_lr_fn="spectral_unclamped").step()
        scale = (shape[0] / shape[1]) ** 0.5
        assert error(ours, exact) < 0.5 * error(-weight.detach() / scale, exact)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("rank", [None, 16, 1])
def test_no_number_comes_near_the_largest_of_16_bits(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], rank: int | None
) -> None:
    """Where nearly all directions are missing, the polynomials reach 3.4445³ = 40.9."""
    products: list[Tensor] = []
    multiply: Any = torch.baddbmm

    def noted(*matrices: Tensor, **factors: float) -> Tensor:
        products.append(multiply(*matrices, **factors))
        return products[-1]

    monkeypatch.setattr(torch, "baddbmm", noted)

    five_times(gradient_of(shape, rank=rank, seed=1)[None], dtype=torch.float16)

    assert products
    assert max(product.abs().max().item() for product in products) < 50


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_in_32_bits_the_result_is_that_of_the_singular_values(
    shape: tuple[int, int],
) -> None:
    gradient = gradient_of(shape, rank=16, seed=1)

    alone = five_times(gradient, dtype=torch.float32)
    (in_a_stack,) = five_times(gradient[None], dtype=torch.float32)

    for found in (alone, in_a_stack):
        assert error(found, iterate_exactly(gradient)) < 1e-3


@pytest.mark.parametrize("in_stacks", [False, True])
@pytest.mark.parametrize("options", [{}, {"adjust_lr_fn": "match_rms_adamw"}], ids=str)
def test_twenty_steps_lead_where_pytorch_s_lead_and_states_are_interchangeable(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], in_stacks: bool
) -> None:
    """The momentum is the same, bit for bit; half way, each gets the other's state."""
    shapes = [SHAPES["wide"], *[SHAPES["square"]] * 2, SHAPES["tall"]]
    start = [gradient_of(shape, seed=n) / 8 for n, shape in enumerate(shapes)]
    ours, theirs = ([torch.nn.Parameter(t.clone()) for t in start] for _ in range(2))
    settings: dict[str, Any] = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    if in_stacks:  # as on a GPU
        monkeypatch.setattr(muon, "_together", muon._of_one_shape)
    fast = FastMuon(ours, **settings, **options)
    one_by_one = Muon(theirs, **settings, **options)

    for step in range(20):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            one.grad = gradient_of(one.shape, rank=8, seed=100 * step + number)
            other.grad = one.grad.clone()
        fast.step()
        one_by_one.step()
        if step == 9:
            states = fast.state_dict(), one_by_one.state_dict()
            one_by_one.load_state_dict(states[0])
            fast.load_state_dict(states[1])

    for one, other, begin in zip(ours, theirs, start, strict=True):
        momentum = fast.state[one]["momentum_buffer"]
        assert torch.equal(momentum, one_by_one.state[other]["momentum_buffer"])
        moved = (other.detach() - begin).norm()
        assert (one - other).norm() < 0.06 * moved  # the rounding of bf16 by PyTorch


def test_one_device_updates_all_matrices_of_a_shape_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many numbers they have: those limits are for what ranks exchange."""
    stacks: list[torch.Size] = []

    def noted(matrices: Tensor, **settings: Any) -> Tensor:
        stacks.append(matrices.shape)
        return orthogonalize(matrices, **settings)

    monkeypatch.setattr(muon, "_together", muon._of_one_shape)  # as on a GPU
    monkeypatch.setattr(muon, "orthogonalize", noted)
    monkeypatch.setattr(owners, "AT_ONCE", 1)
    weights = [torch.nn.Parameter(torch.ones(*SHAPES["wide"])) for _ in range(3)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)

    FastMuon(weights).step()

    assert stacks == [(3, *SHAPES["wide"])]


def test_a_weight_without_a_gradient_stays_and_a_gradient_of_zero_moves_nothing() -> (
    None
):
    weights = [torch.nn.Parameter(torch.ones(8, 32)) for _ in range(2)]
    weights[0].grad = torch.zeros(8, 32)

    loss = FastMuon(weights, lr=0.1, weight_decay=0.0).step(lambda: 3.0)

    assert loss == 3.0
    assert all(torch.equal(weight, torch.ones(8, 32)) for weight in weights)
