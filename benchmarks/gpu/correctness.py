"""Part 1: does each fast piece compute, on this card, what the plain network computes?

Errors are relative, ‖found - exact‖ / ‖exact‖; exact is the plain network in 64 bits on
the processor. A piece may be somewhat less exact than the plain network in the same
precision, which is beside it in the table: to add in bf16 rounds once more.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Muon

from benchmarks.gpu.rungs import IN_THE_NETWORK, OUTPUT_LOSS, Loss
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.sizes import backend, two_layers
from benchmarks.gpu.trials import Trials, measure_trials
from benchmarks.measure import Figures
from benchmarks.training import Task
from toygpt.generation.engine import generate_batch as generate_plainly
from toygpt.generation.graph import generate_batch as generate_by_graph
from toygpt.model.gpt import GPT
from toygpt.training.muon import FastMuon

# Of loss and gradients. To a hundredth of it, no error of the plain network counts.
LARGEST_ERRORS = {"32 bits": 1e-3, "bf16": 5e-2}
TIMES_THE_PLAIN_ERROR = 2.5
SEQUENCES = 2  # in 64 bits, on a processor


def measure(setup: Setup) -> None:
    """Compare pieces of a step, while the trials run; then the results of these."""
    with Trials(setup) as trials:
        trials.start("straight", "again", "killed", "too large", "diverging")
        setup.attempt(
            {
                "network": partial(measure_network, setup),
                "Muon": partial(measure_muon, setup),
                "generation": partial(measure_generation, setup),
                "trials": partial(measure_trials, setup, trials),
            }
        )


def verdict(is_right: bool) -> str:
    """Return the word of the last column."""
    return "right" if is_right else "WRONG"


def error(found: Tensor, exact: Tensor) -> float:
    """Return the relative error."""
    found = found.detach().cpu().double()
    return ((found - exact).norm() / exact.norm()).item()


def lively_model(task: Task) -> GPT:
    """Return a model whose biases are not zero, and whose attention is not even."""
    torch.manual_seed(0)
    model = GPT(task.config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


class Check(NamedTuple):
    """A network whose loss and gradients are compared with the exact ones."""

    name: str
    rungs: Collection[str]
    precision: str = "bf16"
    is_compiled: bool = False


IN_NETWORK = [OUTPUT_LOSS, *IN_THE_NETWORK]
# After each plain network those that are measured by it.
CHECKS = [
    Check("plain", [], "32 bits"),
    Check("all", IN_NETWORK, "32 bits"),
    Check("plain", []),
    *(Check(rung, [rung]) for rung in IN_NETWORK),
    Check("all", IN_NETWORK),
    Check("plain, compiled", [], is_compiled=True),
    Check("all, compiled", IN_NETWORK, is_compiled=True),
]


def measure_network(setup: Setup) -> None:
    """Compare loss and gradients of each rung, with and without the compiler."""
    task = two_layers(setup)
    inputs, targets = task.batches().batch(0, rows=slice(SEQUENCES))
    model = lively_model(task)
    exact = loss_and_gradients(Loss(model.double()), inputs, targets)
    model = model.float().to(task.device)
    inputs, targets = inputs.to(task.device), targets.to(task.device)
    torch.set_float32_matmul_precision("highest")

    rows = []
    of_plain = 0.0
    for check in CHECKS:
        network = Loss(model, check.rungs)
        if check.is_compiled:
            network.compile(dynamic=False, backend=backend(setup))
        is_mixed = check.precision == "bf16"
        with torch.autocast(task.device.type, torch.bfloat16, enabled=is_mixed):
            found = loss_and_gradients(network, inputs, targets)
        of_loss, of_gradients = map(error, found, exact)
        largest = LARGEST_ERRORS[check.precision]
        if not check.rungs:
            of_plain = max(of_gradients, largest / 100)
        is_right = max(of_loss, of_gradients) < largest
        is_right &= of_gradients < TIMES_THE_PLAIN_ERROR * of_plain
        rows.append(
            Figures(
                f"{check.name}, {check.precision}",
                {
                    "loss": f"{of_loss:.1e}",
                    "gradients": f"{of_gradients:.1e}",
                    "verdict": verdict(is_right),
                },
            )
        )
    setup.report(
        "correctness",
        "How far is each fast piece from the plain network in 64 bits?",
        rows,
        network="`small` with two layers",
        sequences=SEQUENCES,
        largest_errors=", ".join(f"{k}: {v}" for k, v in LARGEST_ERRORS.items()),
        times_the_plain_error=TIMES_THE_PLAIN_ERROR,
    )


def loss_and_gradients(
    network: torch.nn.Module, inputs: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss, and the gradients of all parameters as one vector."""
    parameters = list(network.parameters())
    loss = network(inputs, targets)
    gradients = torch.autograd.grad(loss, parameters)
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def measure_muon(setup: Setup) -> None:
    """Compare one update of both Muons with the exact one, by singular values."""
    task = two_layers(setup)
    channels = task.config.embed_dim
    shapes = {
        "square": (channels, channels),
        "wide": (channels, 4 * channels),
        "tall": (4 * channels, channels),
    }
    rows = []
    for shape_name, (height, width) in shapes.items():
        for rank in (min(height, width), max(1, channels // 4)):
            torch.manual_seed(rank)
            gradient = torch.randn(height, rank) @ torch.randn(rank, width)
            exact = exact_update(gradient.double())
            torchs, ours = (
                error(update(kind, gradient.to(task.device)), exact)
                for kind in (Muon, FastMuon)
            )
            rows.append(
                Figures(
                    f"{shape_name}, {height} x {width}, rank {rank}",
                    {
                        "PyTorch's": f"{torchs:.1e}",
                        "by shapes": f"{ours:.1e}",
                        "verdict": verdict(ours < 1.05 * torchs + 0.02),
                    },
                )
            )
    setup.report(
        "muon",
        "How far is an update of Muon from the exact one?",
        rows,
        bound="1.05 x PyTorch's error, and 0.02 more",
    )


def update(kind: Callable[..., Muon], gradient: Tensor) -> Tensor:
    """Return how a step of Muon changes a matrix, at a learning rate of one."""
    matrix = torch.nn.Parameter(torch.zeros_like(gradient))
    matrix.grad = gradient
    kind([matrix], lr=1.0, momentum=0.0, weight_decay=0.0, nesterov=False).step()
    return -matrix.detach() / max(1, gradient.shape[0] / gradient.shape[1]) ** 0.5


def exact_update(gradient: Tensor) -> Tensor:
    """Return what Muon's five iterations come to, by the singular values."""
    u, values, vh = torch.linalg.svd(gradient, full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return (u * values) @ vh


def measure_generation(setup: Setup) -> None:
    """Compare the greedy tokens of the captured graph with those of the engine."""
    task = two_layers(setup)
    model = lively_model(task).to(task.device).eval()
    torch.set_float32_matmul_precision("highest")
    num_new_tokens = task.config.block_size // 2
    rows = []
    for num_texts in (1, 16):
        shape = (num_texts, task.config.block_size // 4)
        prompts = torch.randint(task.config.vocab_size, shape).tolist()
        plain, by_graph = (
            [
                list(step.values())
                for step in generate(
                    model, prompts, max_new_tokens=num_new_tokens, end_of_text_id=-1
                )
            ]
            for generate in (generate_plainly, generate_by_graph)
        )
        differ = sum(a != b for a, b in zip(plain, by_graph, strict=True))
        rows.append(
            Figures(
                f"{num_texts} at once",
                {
                    "tokens": num_texts * num_new_tokens,
                    "steps that differ": differ,
                    "verdict": verdict(differ == 0),
                },
            )
        )
    setup.report(
        "graph",
        "Does a captured graph generate the same greedy tokens?",
        rows,
        precision="32-true",
    )
