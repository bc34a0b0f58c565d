"""GPT-2's network as nanoGPT writes it: what our training is compared with.

Karpathy, 2022, https://github.com/karpathy/nanoGPT, model.py: learned positions, GELU
in the form of a tanh, one product for query, key and value, no biases, a vocabulary
padded to a multiple of 64, the output layer tied to the embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toygpt.model.gpt import GPTConfig

MULTIPLE = 64  # of the vocabulary


class Block(nn.Module):
    """Attention and feed-forward layer."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(channels, bias=False)
        self.to_query_key_value = nn.Linear(channels, 3 * channels, bias=False)
        self.from_heads = nn.Linear(channels, channels, bias=False)
        self.feed_forward_norm = nn.LayerNorm(channels, bias=False)
        self.to_hidden = nn.Linear(channels, 4 * channels, bias=False)
        self.from_hidden = nn.Linear(4 * channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream with what this layer has to add."""
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.to_query_key_value(self.attention_norm(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.from_heads(mixed.transpose(1, 2).flatten(2))
        hidden = self.to_hidden(self.feed_forward_norm(x))
        return x + self.from_hidden(F.gelu(hidden, approximate="tanh"))


class GPT2(nn.Module):
    """The whole network."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        channels = config.embed_dim
        padded = config.vocab_size + -config.vocab_size % MULTIPLE
        # nanoGPT's heads of 64 channels, where ours may be wider.
        num_heads = max(1, channels // 64)
        self.token_embedding = nn.Embedding(padded, channels)
        self.position_embedding = nn.Embedding(config.block_size, channels)
        self.blocks = nn.Sequential(
            *(Block(channels, num_heads) for _ in range(config.num_layers))
        )
        self.final_norm = nn.LayerNorm(channels, bias=False)
        self.to_logits = nn.Linear(channels, padded, bias=False)
        self.to_logits.weight = self.token_embedding.weight
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return the logits of the next token at every position."""
        positions = torch.arange(token_ids.shape[1], device=token_ids.device)
        x = self.token_embedding(token_ids) + self.position_embedding(positions)
        return self.to_logits(self.final_norm(self.blocks(x)))


def gpt2_network(config: GPTConfig) -> nn.Module:
    """Return the network, as deep and as wide as ours."""
    return GPT2(config)


def transformers_network(config: GPTConfig) -> nn.Module:
    """Return GPT-2 as transformers has it, as deep and as wide; it gives logits."""
    from transformers import GPT2Config, GPT2LMHeadModel

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=config.vocab_size,
                    n_positions=config.block_size,
                    n_embd=config.embed_dim,
                    n_layer=config.num_layers,
                    n_head=config.num_heads,
                    resid_pdrop=0.0,
                    embd_pdrop=0.0,
                    attn_pdrop=0.0,
                    use_cache=False,
                )
            )

        def forward(self, token_ids: Tensor) -> Tensor:
            return self.network(token_ids).logits

    return Logits()
