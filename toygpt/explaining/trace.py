"""Trace a network: what each part of it computes while it reads a text.

Nothing is computed a second time: hooks listen to the network that reads. Only the
shares of attention, which a fused kernel never writes down, are made once more, from
the network's own queries and keys.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from toygpt.model.attention import attention_scores
from toygpt.model.gpt import GPT


@dataclass(frozen=True)
class Trace:
    """What a network computed, from the tokens of a text to the logits.

    Attributes:
        additions: What each part added to the stream of vectors: the token, its
            position, then attention and feed-forward of each block.
        shares: How much of each token's value each token takes, per head.
        hidden: What each neuron of the feed-forward layers answered, before the ReLU.
        logits: The score of every possible next token.
    """

    additions: Float[Tensor, "part time channels"]
    shares: Float[Tensor, "layer head time time"]
    hidden: Float[Tensor, "layer time hidden"]
    logits: Float[Tensor, "time vocab"]

    @property
    def stream(self) -> Float[Tensor, "part time channels"]:
        """The stream of vectors after each addition."""
        return self.additions.cumsum(dim=0)


@torch.inference_mode()
def trace(model: GPT, token_ids: list[int]) -> Trace:
    """Return what a model in evaluation mode computes as it reads a text."""
    with listening(model) as heard:
        logits = model(torch.tensor([token_ids]))

    blocks = [f"blocks.{layer}" for layer in range(model.config.num_layers)]

    def of_blocks(name: str) -> Tensor:
        return torch.cat([heard[f"{block}.{name}"] for block in blocks])

    token = heard["token_embedding"] * math.sqrt(model.config.embed_dim)
    added = torch.stack([of_blocks("attention"), of_blocks("feed_forward")], dim=1)
    queries_and_keys = (
        of_blocks(name).unflatten(-1, (model.config.num_heads, -1)).transpose(1, 2)
        for name in ("attention.to_query", "attention.to_key")
    )
    return Trace(
        additions=torch.cat([token, heard["dropout"] - token, *added]),
        shares=attention_scores(*queries_and_keys).softmax(dim=-1),
        hidden=of_blocks("feed_forward.to_hidden"),
        logits=logits[0],
    )


@contextmanager
def listening(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect what each module returns, by its name, until the block ends."""
    heard: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        heard[name] = output

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_hook(partial(keep, name)))
        yield heard
