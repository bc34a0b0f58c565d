"""Part 1: does each fast piece compute, on this card, what the plain network computes?

Errors are relative, ‖found - exact‖ / ‖exact‖; exact is the plain network in 64 bits on
the processor. A piece may be somewhat less exact than the plain network in the same
precision, which is beside it in the table: to add in bf16 rounds once more.
"""

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

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
from toygpt.generation.packed import pack
from toygpt.generation.sampling import Sampling
from toygpt.model.gpt import GPT
from toygpt.training.muon import FastMuon

# Of loss and gradients. To a hundredth of it, no error of the plain network counts.
LARGEST_ERRORS = {"32 bits": 1e-3, "bf16": 5e-2}
TIMES_THE_PLAIN_ERROR = 3.0
SEQUENCES = 2  # in 64 bits, on a processor


def measure(setup: Setup) -> None:
    """Compare pieces of a step, while the trials run; then the results of these.

    What compiles nothing comes first. At most three networks are compiled at the same
    time: those of two trials, and one here. Later trials find theirs compiled.
    """
    with Trials(setup) as trials:
        trials.start("straight", "killed", "too large", "diverging")
        trials.start_after("killed", {"resumed": "killed", "again": "again"})
        setup.attempt(
            {
                "Muon": partial(measure_muon, setup),
                "generation": partial(measure_generation, setup),
                "network": partial(measure_network, setup),
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
        setup.report(  # the table grows with each row
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
    """Compare one update of both Muons with the exact one.

    Of two matrices of one shape: a GPU updates them in a stack.
    """
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
            gradients = torch.randn(2, height, rank) @ torch.randn(2, rank, width)
            exact = exact_update(gradients)
            torchs, ours = (
                max(map(error, updates(kind, gradients.to(task.device)), exact))
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
        matrices="two, updated in one step; the larger error of both",
        bound="1.05 x PyTorch's error, and 0.02 more",
    )


def updates(kind: Callable[..., Muon], gradients: Tensor) -> list[Tensor]:
    """Return how one step of Muon changes matrices, at a learning rate of one."""
    matrices = [torch.nn.Parameter(torch.zeros_like(each)) for each in gradients]
    for matrix, gradient in zip(matrices, gradients, strict=True):
        matrix.grad = gradient
    kind(matrices, lr=1.0, momentum=0.0, weight_decay=0.0, nesterov=False).step()
    height, width = gradients.shape[1:]
    return [-matrix.detach() / max(1, height / width) ** 0.5 for matrix in matrices]


def exact_update(gradients: Tensor) -> Tensor:
    """Return Muon's five iterations in 64 bits, as they are defined."""
    if gradients.shape[-2] > gradients.shape[-1]:
        return exact_update(gradients.mT).mT
    x = gradients.double()
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    for _ in range(5):
        r = x @ x.mT
        x = 3.4445 * x + (-4.7750 * r + 2.0315 * r @ r) @ x
    return x


class Texts(NamedTuple):
    """Texts that are generated by the graph and by the engine."""

    name: str
    lengths: list[int]  # of the prompts, in tokens
    sampling: Sampling | None = None


def measure_generation(setup: Setup) -> None:
    """Compare the graph, as the commands use it, with the engine on the same device."""
    task = two_layers(setup)
    model = lively_model(task).to(task.device).eval()
    packed = pack(model)
    torch.set_float32_matmul_precision("highest")
    block_size = task.config.block_size
    num_new_tokens = block_size // 2
    short, long = block_size // 5, 4 * block_size // 5
    rows = []
    for texts in (
        Texts("1 at once", [block_size // 4]),
        Texts("16 at once", 16 * [block_size // 4]),
        Texts(
            f"sampling, prompts of {short} and {long} tokens: a window moves",
            [short, long],
            Sampling(top_k=50, top_p=0.9),
        ),
    ):
        prompts = [
            torch.randint(task.config.vocab_size, (length,)).tolist()
            for length in texts.lengths
        ]
        settings: dict[str, Any] = {
            "max_new_tokens": num_new_tokens,
            "end_of_text_id": -1,
            "sampling": texts.sampling,
        }
        plain = list(generate_plainly(model, prompts, **settings))
        with failed_captures_are_errors():
            by_graph = list(generate_by_graph(packed, prompts, **settings))
        differ = sum(a != b for a, b in zip(plain, by_graph, strict=True))
        rows.append(
            Figures(
                texts.name,
                {
                    "tokens": len(prompts) * num_new_tokens,
                    "steps that differ": differ,
                    "verdict": verdict(differ == 0),
                },
            )
        )
        setup.report(  # the table grows with each row
            "graph",
            "Does a captured graph generate the same tokens?",
            rows,
            precision="32-true",
            otherwise="greedy",
        )


@contextmanager
def failed_captures_are_errors() -> Iterator[None]:
    """Raise what graph.py warns of: eagerly, it would give the right tokens as well."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the decode step could not be captured")
        yield
