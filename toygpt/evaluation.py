"""How well a model predicts text, and what simpler means would reach."""

from __future__ import annotations

import lzma
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

from toygpt.data.token_files import TOKENS_AT_ONCE, TokenIds, count_tokens
from toygpt.model.gpt import GPT

# Of the training text that the bigram model counts.
MAX_BIGRAM_TOKENS = 200_000_000
# A target of this value is neither predicted nor counted (PyTorch's convention).
NOT_ASKED = -100


@dataclass(frozen=True)
class Judgement:
    """How well every token of a text was predicted from those before it."""

    loss: float  # nats per token
    accuracy: float  # share of tokens that were the model's first choice
    num_tokens: int

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
    block_size = model.config.block_size
    num_new = max(1, round(block_size * (1 - overlap_fraction)))
    windows = _windows(tokens, block_size, num_new, end_of_text_id)

    total_loss, num_correct = 0.0, 0
    with tqdm(
        desc="evaluate", total=len(tokens), unit="tok", unit_scale=True, disable=None
    ) as progress:
        for group in batched(windows, batch_size):
            inputs, targets = (
                torch.from_numpy(np.stack(rows)).to(device)
                for rows in zip(*group, strict=True)
            )
            logits = model(inputs)
            total_loss += F.cross_entropy(
                logits.flatten(0, 1),
                targets.flatten(),
                ignore_index=NOT_ASKED,
                reduction="sum",
            ).item()
            num_correct += int((logits.argmax(dim=-1) == targets).sum())
            progress.update(int((targets != NOT_ASKED).sum()))
    return Judgement(total_loss / len(tokens), num_correct / len(tokens), len(tokens))


def _windows(
    tokens: TokenIds, block_size: int, num_new: int, end_of_text_id: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield inputs and targets of each window; what is not asked for is marked so."""
    num_context = 0
    start = 0
    while start + num_context < len(tokens):
        wanted = tokens[start : start + block_size].astype(np.int64)
        before = tokens[start - 1] if start else end_of_text_id
        inputs = np.full(block_size, end_of_text_id, dtype=np.int64)
        inputs[: len(wanted)] = [before, *wanted[:-1]]
        targets = np.full(block_size, NOT_ASKED, dtype=np.int64)
        targets[num_context : len(wanted)] = wanted[num_context:]
        yield inputs, targets
        num_context = block_size - num_new
        start += num_new


def batched(
    windows: Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]], size: int
) -> Iterator[list[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Yield lists of `size` windows; the last may be shorter."""
    while group := list(islice(windows, size)):
        yield group


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
