"""How well a model predicts a text, and how sure that number is."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from toygpt.data.token_files import Tokens
from toygpt.model.gpt import GPT

# Inputs and targets of some windows, and which targets are predicted.
Window = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]
# The probabilities of first choices are counted in so many steps from 0 to 1.
PROBABILITY_STEPS = 10_000
# The sample of a standard error: at least so many documents, and none of them with more
# of the text than this.
MIN_SAMPLES = 30
MAX_SAMPLE_FRACTION = 0.25


@dataclass(frozen=True)
class Evaluation:
    """How well every token of a text was predicted from the tokens before it."""

    loss: float  # nats per token
    accuracy: float  # share of tokens that were the model's first choice
    token_losses: NDArray[np.float32]  # nats, of every token
    # How many first choices were wrong and right, by their probability in steps.
    choices: NDArray[np.int64]

    @property
    def perplexity(self) -> float:
        """The number of equally likely choices that would be as hard to guess."""
        return math.exp(self.loss)

    def bits_per_byte(self, num_bytes: int) -> float:
        """Return the loss per byte of text, comparable among tokenizers."""
        return self.loss * len(self.token_losses) / math.log(2) / num_bytes


@torch.inference_mode()
def evaluate(
    model: GPT,
    tokens: Tokens,
    *,
    batch_size: int,
    overlap_fraction: float,
    end_of_text_id: int,
) -> Evaluation:
    """Predict every token exactly once, the first one from `<|endoftext|>`.

    A window of block_size tokens slides over the text. In each window but the first,
    `overlap_fraction` of the tokens were predicted before and are context alone: no
    token is predicted without a past just because a window begins there.

    Args:
        model: A model in evaluation mode.
        tokens: The token ids of the text.
        batch_size: Windows at once.
        overlap_fraction: Share of each window that is context alone.
        end_of_text_id: The token id that ends a document.
    """
    windows = _windows(
        tokens, model.config.block_size, batch_size, overlap_fraction, end_of_text_id
    )
    losses, token_losses = [], []
    choices = torch.zeros(2 * (PROBABILITY_STEPS + 1), dtype=torch.int64)
    choices = choices.to(model.device)
    with tqdm(
        desc="evaluate", total=len(tokens), unit="tok", unit_scale=True, disable=None
    ) as progress:
        for logits, answers in _predictions(model, windows):
            # Added up at the end: to read a number now would make the GPU's work wait.
            log_probabilities = logits.log_softmax(dim=-1)
            losses.append(F.nll_loss(log_probabilities, answers, reduction="sum"))
            token_losses.append(-log_probabilities.gather(-1, answers[:, None])[:, 0])
            first = logits.argmax(dim=-1)
            probabilities = log_probabilities.gather(-1, first[:, None])[:, 0].exp()
            steps = (probabilities * PROBABILITY_STEPS).round().long()
            steps += (first == answers) * (PROBABILITY_STEPS + 1)
            choices += steps.bincount(minlength=len(choices))
            progress.update(len(answers))
    wrong_and_right = choices.cpu().numpy().reshape(2, -1)
    return Evaluation(
        loss=sum(torch.stack(losses).tolist()) / len(tokens),
        accuracy=int(wrong_and_right[1].sum()) / len(tokens),
        token_losses=torch.cat(token_losses).cpu().numpy(),
        choices=wrong_and_right,
    )


@torch.inference_mode()
def _predictions(
    model: GPT, windows: Iterable[Window]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits of the tokens that are predicted, and these tokens."""
    for inputs, targets, is_predicted in windows:
        x = model.read(torch.from_numpy(inputs).to(model.device))
        # Context alone needs no logits.
        logits = model.to_logits(x[torch.from_numpy(is_predicted).to(model.device)])
        yield logits, torch.from_numpy(targets[is_predicted]).to(model.device)


@torch.inference_mode()
def first_choices(
    model: GPT,
    tokens: Tokens,
    place: slice,
    *,
    overlap_fraction: float,
    end_of_text_id: int,
) -> list[tuple[int, float]]:
    """Return the first choices for some of the tokens, and their probabilities.

    `evaluate` keeps none of them: this reads the text again, in the same windows. They
    begin at multiples of as many tokens as each predicts.
    """
    block_size = model.config.block_size
    num_new = _num_new(block_size, overlap_fraction)
    first = max(0, (place.start - block_size) // num_new * num_new)
    windows = _windows(
        tokens[first : place.stop], block_size, 1, overlap_fraction, end_of_text_id
    )
    logits = torch.cat([logits for logits, _ in _predictions(model, windows)])
    choices = logits[place.start - first :].softmax(dim=-1).max(dim=-1)
    return list(zip(choices.indices.tolist(), choices.values.tolist(), strict=True))


def _windows(
    tokens: Tokens,
    block_size: int,
    batch_size: int,
    overlap_fraction: float,
    end_of_text_id: int,
) -> Iterator[Window]:
    """Yield inputs and targets of some windows, and which targets are predicted."""
    num_new = _num_new(block_size, overlap_fraction)
    num_context = block_size - num_new
    num_windows = max(1, math.ceil((len(tokens) - num_context) / num_new))
    for first in range(0, num_windows, batch_size):
        numbers = np.arange(first, min(first + batch_size, num_windows))[:, None]
        # The position of the token before each window, and of the tokens in it.
        places = numbers * num_new + np.arange(-1, block_size)
        sequences = tokens[places.clip(0, len(tokens) - 1)].astype(np.int64)
        sequences[places < 0] = end_of_text_id
        is_new = (numbers == 0) | (np.arange(block_size) >= num_context)
        is_predicted = is_new & (places[:, 1:] < len(tokens))
        yield sequences[:, :-1], sequences[:, 1:], is_predicted


def _num_new(block_size: int, overlap_fraction: float) -> int:
    """Return how many tokens each window but the first predicts."""
    return max(1, round(block_size * (1 - overlap_fraction)))


def bits_per_byte_standard_error(
    token_losses: NDArray[np.float32],
    tokens: Tokens,
    *,
    bytes_of_token: NDArray[np.int64],
    end_of_text_id: int,
) -> float:
    """Return the standard error of the bits per byte of a text.

    The text is a sample of documents; if there are too few of them, or one has too much
    of the text, a sample of blocks that follow one another. Bits per byte are a ratio
    of two sums over this sample; its variance is that of a linear approximation (delta
    method; Cochran, Sampling Techniques, 1977, section 6.3).

    Args:
        token_losses: Nats, of every token.
        tokens: The token ids of the text.
        bytes_of_token: How many bytes of text each token id stands for.
        end_of_text_id: The token id that ends a document.
    """
    token_bytes = bytes_of_token[tokens[:]]
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
