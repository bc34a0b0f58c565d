"""How well a model predicts text, and what simpler means would reach."""

from __future__ import annotations

import lzma
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

from toygpt.data.token_files import TOKENS_AT_ONCE, TokenIds, count_tokens
from toygpt.model.gpt import GPT

# Of the training text that the bigram model counts.
MAX_BIGRAM_TOKENS = 200_000_000
# What a standard error is computed over: so many samples at least, none of them with
# more of the text than this.
MIN_SAMPLES = 30
MAX_SAMPLE_FRACTION = 0.25


@dataclass(frozen=True)
class Judgement:
    """How well every token of a text was predicted from those before it."""

    loss: float  # nats per token
    accuracy: float  # share of tokens that were the model's first choice
    token_losses: NDArray[np.float32]  # nats, of every token

    @property
    def num_tokens(self) -> int:
        """How many tokens were predicted."""
        return len(self.token_losses)

    @property
    def perplexity(self) -> float:
        """The number of equally likely choices that would be as hard to guess."""
        return math.exp(self.loss)

    def bits_per_byte(self, num_bytes: int) -> float:
        """Return what the text costs per byte, comparable among tokenizers."""
        return self.loss * self.num_tokens / math.log(2) / num_bytes


@torch.inference_mode()
def judge(
    model: GPT,
    tokens: TokenIds,
    *,
    batch_size: int,
    overlap_fraction: float,
    end_of_text_id: int,
) -> Judgement:
    """Predict every token exactly once, the first one from `<|endoftext|>`.

    A window of block_size tokens slides over the text. In each window but the first,
    `overlap_fraction` of the tokens were predicted before and are context alone: no
    token is predicted without a past just because a window begins there.
    """
    device = model.token_embedding.weight.device
    losses, token_losses, num_correct = [], [], []
    with tqdm(
        desc="evaluate", total=len(tokens), unit="tok", unit_scale=True, disable=None
    ) as progress:
        for inputs, targets, is_asked in _windows(
            tokens,
            model.config.block_size,
            batch_size,
            overlap_fraction,
            end_of_text_id,
        ):
            x = model.read(torch.from_numpy(inputs).to(device))
            # Of what is context alone nobody asks: it needs no logits.
            logits = model.to_logits(x[torch.from_numpy(is_asked).to(device)])
            asked = torch.from_numpy(targets[is_asked]).to(device)
            # Added up at the end: to look at them now would make a GPU wait.
            log_probabilities = logits.log_softmax(dim=-1)
            losses.append(F.nll_loss(log_probabilities, asked, reduction="sum"))
            token_losses.append(-log_probabilities.gather(-1, asked[:, None])[:, 0])
            num_correct.append((logits.argmax(dim=-1) == asked).sum())
            progress.update(len(asked))
    return Judgement(
        loss=sum(torch.stack(losses).tolist()) / len(tokens),
        accuracy=sum(torch.stack(num_correct).tolist()) / len(tokens),
        token_losses=torch.cat(token_losses).cpu().numpy(),
    )


def _windows(
    tokens: TokenIds,
    block_size: int,
    batch_size: int,
    overlap_fraction: float,
    end_of_text_id: int,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]]:
    """Yield the inputs and targets of some windows, and which targets are asked for."""
    num_new = max(1, round(block_size * (1 - overlap_fraction)))
    num_context = block_size - num_new
    num_windows = max(1, math.ceil((len(tokens) - num_context) / num_new))
    for first in range(0, num_windows, batch_size):
        numbers = np.arange(first, min(first + batch_size, num_windows))[:, None]
        # Of the token before each window, and of those in it.
        places = numbers * num_new + np.arange(-1, block_size)
        sequences = tokens[places.clip(0, len(tokens) - 1)].astype(np.int64)
        sequences[places < 0] = end_of_text_id
        is_new = (numbers == 0) | (np.arange(block_size) >= num_context)
        is_asked = is_new & (places[:, 1:] < len(tokens))
        yield sequences[:, :-1], sequences[:, 1:], is_asked


def bits_per_byte_standard_error(
    token_losses: NDArray[np.float32],
    tokens: TokenIds,
    *,
    bytes_of_token: NDArray[np.int64],
    end_of_text_id: int,
) -> float:
    """Return the standard error of the bits per byte of a text.

    The text is taken for a sample of documents; if there are too few of them, or one
    has too much of the text, for a sample of blocks that follow one another. Bits per
    byte are a ratio of two sums over these; its variance is that of a linear
    approximation (delta method; Cochran, Sampling Techniques, 1977, section 6.3).

    Args:
        token_losses: Nats, of every token.
        tokens: The token ids of the text.
        bytes_of_token: How many bytes of text each token id stands for.
        end_of_text_id: The token id that ends a document.
    """
    token_bytes = bytes_of_token[tokens]
    num_bytes = token_bytes.sum()
    starts = np.append(0, np.flatnonzero(tokens[:-1] == end_of_text_id) + 1)
    largest = np.add.reduceat(token_bytes, starts).max()
    if len(starts) < MIN_SAMPLES or largest > MAX_SAMPLE_FRACTION * num_bytes:
        num_blocks = min(MIN_SAMPLES, len(tokens))
        starts = np.arange(num_blocks) * len(tokens) // num_blocks
    bits = np.add.reduceat(token_losses, starts, dtype=np.float64) / math.log(2)
    residuals = bits - bits.sum() / num_bytes * np.add.reduceat(token_bytes, starts)
    variance = residuals.var(ddof=1) * len(starts) / num_bytes**2
    return math.sqrt(variance)


def bigram_loss(
    train: TokenIds,
    validation: TokenIds,
    test: TokenIds,
    *,
    vocab_size: int,
    end_of_text_id: int,
) -> float:
    """Return what a model that knows one token back reaches, in nats per token.

    It mixes how often a token follows the last one with how often it comes at all:
    P(w | v) = λ c(v, w) / c(v) + (1 - λ) (c(w) + 1) / (N + V), an interpolated bigram
    (Jelinek and Mercer, 1980). λ is fitted to the validation split.
    """
    train = train[:MAX_BIGRAM_TOKENS]
    single = count_tokens(train, vocab_size)
    pairs = {
        name: _pairs(np.concatenate([[end_of_text_id], split]), vocab_size)
        for name, split in (("validation", validation), ("test", test))
    }
    distinct = np.unique(np.concatenate(list(pairs.values())))
    counts = np.zeros(len(distinct), dtype=np.int64)
    for first in range(0, len(train) - 1, TOKENS_AT_ONCE):
        seen = _pairs(train[first : first + TOKENS_AT_ONCE + 1], vocab_size)
        place = np.searchsorted(distinct, seen).clip(max=len(distinct) - 1)
        counts += np.bincount(place[distinct[place] == seen], minlength=len(distinct))

    def probabilities(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        previous, following = np.divmod(pairs[name], vocab_size)
        together = counts[np.searchsorted(distinct, pairs[name])]
        return (
            together / np.maximum(single[previous], 1),
            (single[following] + 1) / (len(train) + vocab_size),
        )

    bigram, unigram = probabilities("validation")
    weight = 0.5
    for _ in range(20):  # expectation maximisation; it settles long before
        share = weight * bigram
        weight = float((share / (share + (1 - weight) * unigram)).mean())
    bigram, unigram = probabilities("test")
    return float(-np.log(weight * bigram + (1 - weight) * unigram).mean())


def _pairs(tokens: TokenIds, vocab_size: int) -> NDArray[np.int64]:
    """Return one number for each token and its follower."""
    wide = tokens.astype(np.int64)
    return wide[:-1] * vocab_size + wide[1:]


def xz_bits_per_byte(tokens: TokenIds, bytes_of_token: list[bytes]) -> float:
    """Return what xz, at its best, needs per byte of the text that the tokens spell."""
    compressor = lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME)
    num_bytes = num_compressed = 0
    for first in range(0, len(tokens), TOKENS_AT_ONCE):
        piece = tokens[first : first + TOKENS_AT_ONCE].tolist()
        text = b"".join(bytes_of_token[token] for token in piece)
        num_bytes += len(text)
        num_compressed += len(compressor.compress(text))
    num_compressed += len(compressor.flush())
    return 8 * num_compressed / num_bytes
