"""The GPT: token ids in, a score for every possible next token out.

"Attention Is All You Need" as written (Vaswani et al., 2017,
https://arxiv.org/abs/1706.03762), its decoder alone: embeddings scaled by √embed_dim
(section 3.4), fixed sinusoidal positions (3.5), ReLU feed-forward layers four times as
wide (3.3), the output layer tied to the embedding (3.4). One thing is newer: each
sub-layer normalises its input instead of its output, which lets deep models train
without care (Xiong et al., 2020, https://arxiv.org/abs/2002.04745).

An untrained model finds all tokens equally likely: its loss is about ln(vocab_size).

>>> seed = torch.manual_seed(1)
>>> config = GPTConfig(
...     vocab_size=100, num_layers=2, num_heads=2, block_size=8, embed_dim=16,
...     dropout=0.0,
... )
>>> token_ids = torch.randint(100, (4, 9))
>>> inputs, targets = token_ids[:, :-1], token_ids[:, 1:]
>>> loss = next_token_loss(GPT(config)(inputs), targets)
>>> print(f"{loss:.1f}, ln(100) = {math.log(100):.1f}")
4.6, ln(100) = 4.6
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from toygpt.model.attention import Attention, CausalSelfAttention

# As in transformers' CTRL, whose checkpoint format is ours.
LAYER_NORM_EPSILON = 1e-6


@dataclass(frozen=True)
class GPTConfig:
    """Everything that decides the shape of the network."""

    vocab_size: int
    num_layers: int
    num_heads: int
    block_size: int  # tokens that the model can look back over
    embed_dim: int  # channels of the vector that stands for one token
    dropout: float  # fraction of channels set to zero, at random, while training

    @property
    def num_parameters(self) -> int:
        """The number of parameters; the tied embedding counts once."""
        in_a_block = 12 * self.embed_dim**2 + 13 * self.embed_dim
        in_and_out = self.vocab_size * (self.embed_dim + 1)
        return self.num_layers * in_a_block + in_and_out + 2 * self.embed_dim


@dataclass
class Cache:
    """A memory of tokens that were read before; see generation/kv_cache.py."""

    positions: slice | Tensor  # of the tokens to read next
    layers: list[Attention]  # for each block, an attention that keeps keys and values


class FeedForward(nn.Module):
    """Digest, for each token alone, the information that attention has gathered.

    max(0, x W₁ + b₁) W₂ + b₂: formula (2) of Vaswani et al., 2017, section 3.3. Each of
    the hidden channels asks one question of the token's vector; where the answer is
    positive, it adds a vector of its own to the result. Two thirds of a block's weights
    are here.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.to_hidden = nn.Linear(embed_dim, 4 * embed_dim)
        self.to_output = nn.Linear(4 * embed_dim, embed_dim)

    def forward(
        self, x: Float[Tensor, "batch time channels"]
    ) -> Float[Tensor, "batch time channels"]:
        """Widen, drop what is negative, narrow."""
        return self.to_output(F.relu(self.to_hidden(x)))


class Block(nn.Module):
    """One layer: tokens exchange information, then each one digests it.

    Both steps add to the stream of vectors `x` rather than replace it, so that every
    layer starts from all that is known so far (He et al., 2015,
    https://arxiv.org/abs/1512.03385).
    """

    def __init__(self, config: GPTConfig, *, attention: str) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPSILON)
        self.attention = CausalSelfAttention(
            embed_dim=config.embed_dim,
            num_heads=config.num_heads,
            attention=attention,
        )
        self.feed_forward_norm = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPSILON)
        self.feed_forward = FeedForward(config.embed_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "batch time channels"], attend: Attention | None = None
    ) -> Float[Tensor, "batch time channels"]:
        """Return the stream with what this layer has to add."""
        x = x + self.dropout(self.attention(self.attention_norm(x), attend))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class GPT(nn.Module):
    """A network that scores, at every position, each token that could come next."""

    positions: Tensor  # for type checkers, which do not see `register_buffer`

    def __init__(self, config: GPTConfig, *, attention: str = "flash") -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.embed_dim)
        # A buffer is a tensor that moves with the model to a GPU but is not learned;
        # one that is not persistent can be computed again, and is not saved.
        self.register_buffer(
            "positions",
            sinusoidal_positions(config.block_size, config.embed_dim),
            persistent=False,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config, attention=attention) for _ in range(config.num_layers)
        )
        self.final_norm = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPSILON)
        self.to_logits = nn.Linear(config.embed_dim, config.vocab_size)
        # Weight tying: two names for one matrix, which learns in both its uses.
        self.to_logits.weight = self.token_embedding.weight
        self._initialize()

    def forward(
        self, token_ids: Int[Tensor, "batch time"], cache: Cache | None = None
    ) -> Float[Tensor, "batch time vocab"]:
        """Return the logits of the next token at every position.

        Training needs no cache: it reads all tokens of a sequence at once.

        Raises:
            ValueError: More tokens than the model can look back over.
        """
        return self.to_logits(self.read(token_ids, cache))

    def read(
        self, token_ids: Int[Tensor, "batch time"], cache: Cache | None = None
    ) -> Float[Tensor, "batch time channels"]:
        """Return the vectors from which `to_logits` makes the logits.

        Raises:
            ValueError: More tokens than the model can look back over.
        """
        num_tokens = token_ids.shape[1]
        if num_tokens > self.config.block_size:
            raise ValueError(
                f"got {num_tokens} tokens, but the model looks back over at most "
                f"{self.config.block_size} (models.*.block_size in params.yaml)"
            )
        x = self.token_embedding(token_ids) * math.sqrt(self.config.embed_dim)
        positions = self.positions[cache.positions if cache else slice(num_tokens)]
        x = self.dropout(x + positions)
        for number, block in enumerate(self.blocks):
            x = block(x, cache.layers[number] if cache else None)
        return self.final_norm(x)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.positions.device

    @property
    def num_parameters(self) -> int:
        """The number of parameters; the tied embedding counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @torch.no_grad()
    def start_at_frequencies(self, counts: Int[Tensor, "vocab"]) -> None:
        """Make the untrained network predict each token as often as a text has it.

        It would spend its first steps on learning that. The weights start small, so
        that the bias of the output layer decides: softmax(ln p) = p.

        Args:
            counts: How often each token occurs; one is added to each.
        """
        frequencies = (counts + 1) / (counts + 1).sum()
        self.to_logits.bias.copy_(frequencies.log())

    def _initialize(self) -> None:
        """Start small, and smaller where many layers add up.

        Radford et al., 2019, "Language Models are Unsupervised Multitask Learners",
        section 2.3: all additions to the stream are scaled by 1/√(their number).
        A parameter's name is its path through the modules: `to_output` is the last
        layer of both attention and feed-forward, whose results are added.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        std_of_additions = 0.02 / math.sqrt(2 * self.config.num_layers)
        for name, parameter in self.named_parameters():
            if name.endswith("to_output.weight"):
                nn.init.normal_(parameter, std=std_of_additions)


def sinusoidal_positions(
    block_size: int, embed_dim: int
) -> Float[Tensor, "time channels"]:
    """Return a vector for each position: sines in its first half, cosines in the other.

        angle(position, i) = position / 10000^(2i / embed_dim)

    Vaswani et al., 2017, section 3.5. Each pair of channels turns at its own speed,
    from one radian per token down to 1/10000, like the hands of a clock: together they
    distinguish any two positions. A step of k tokens turns every pair by the same
    angle wherever it starts, so that "k tokens ago" is easy to learn.
    """
    position = torch.arange(block_size, dtype=torch.float32)
    channel = torch.arange(0, embed_dim, 2, dtype=torch.float32)
    angle = position[:, None] / torch.pow(10_000, channel / embed_dim)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def next_token_loss(
    logits: Float[Tensor, "batch time vocab"], targets: Int[Tensor, "batch time"]
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the true next tokens, in nats per token.

        loss = mean of -ln softmax(logits)[target]

    It is zero for a model that is certain and right, and ln(vocab_size) for one that
    finds all tokens equally likely. It is computed in 32 bits, since a sum of
    exponentials loses too many digits in 16.
    """
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
