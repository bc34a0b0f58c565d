"""The rungs of the ladder: our network with some of its fast forms, and without."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Muon, Optimizer

from benchmarks.settings import optimizer_settings
from toygpt.model.gpt import GPT, GPTConfig, next_token_loss
from toygpt.training.fused import (
    join_query_key_value,
    keep_stream_in_16_bits,
    put_relu_into_the_product,
    unfuse,
)
from toygpt.training.muon import FastMuon
from toygpt.training.optimizer import build_optimizer
from toygpt.training.output_loss import output_loss

OUTPUT_LOSS = "output layer and loss in one"
MUON = "Muon by shapes"
# Of each rung within the network, what puts it there.
IN_THE_NETWORK: dict[str, Callable[[GPT], None]] = {
    "query, key, value in one": join_query_key_value,
    "stream in bf16": keep_stream_in_16_bits,
    "ReLU in the product": put_relu_into_the_product,
}
# In the order in which they are put on top of each other.
RUNGS = [OUTPUT_LOSS, *IN_THE_NETWORK, MUON]

# The learning rates of experiments/seed.sh.
LEARNING_RATES = {"learning_rate": 1e-3, "muon_learning_rate": 2e-2}


class Loss(nn.Module):
    """The network and its loss, with some rungs; what the stage compiles."""

    def __init__(self, model: GPT, rungs: Collection[str] = ()) -> None:
        super().__init__()
        self.model = model
        unfuse(model)
        self.is_in_one = OUTPUT_LOSS in rungs
        for name, put in IN_THE_NETWORK.items():
            if name in rungs:
                put(model)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, in nats per token."""
        if not self.is_in_one:
            return next_token_loss(self.model(inputs), targets)
        x, layer = self.model.read(inputs), self.model.to_logits
        return output_loss(x, layer.weight, layer.bias, targets)


class Trainer:
    """Our network, its loss and its optimizer on a device, in the hands of a loop.

    Args:
        config: Of the network.
        rungs: The names of the rungs that are taken.
        device: Where it computes.
        is_mixed: Whether products are in bf16.
        backend: As torch.compile takes it; None: not compiled.
    """

    def __init__(
        self,
        config: GPTConfig,
        rungs: Collection[str],
        *,
        device: torch.device,
        is_mixed: bool = True,
        backend: str | None = None,
    ) -> None:
        torch.manual_seed(0)
        torch.compiler.reset()  # else it counts the forms of the network, and gives up
        torch.set_float32_matmul_precision("high")
        self.device = device
        self.is_mixed = is_mixed
        self.model = GPT(config).to(device)
        self.network: Callable[..., Tensor] = Loss(self.model, rungs)
        if backend is not None:
            self.network = torch.compile(self.network, dynamic=False, backend=backend)
        self.optimizer: Optimizer = build_optimizer(
            self.model,
            optimizer_settings(**LEARNING_RATES),
            muon=FastMuon if MUON in rungs else Muon,
        )

    def forward_and_backward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Add the gradients of a micro-batch, and return its loss."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_mixed):
            loss = self.network(inputs, targets)
        loss.backward()
        return loss.detach()

    def update(self) -> Tensor:
        """Clip the gradients, update the weights, and return the gradient norm."""
        norm = clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm
