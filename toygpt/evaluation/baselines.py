"""What simpler means reach on the same text: a bigram model, and xz."""

import lzma

import numpy as np
from numpy.typing import NDArray

from toygpt.data.token_files import TOKENS_AT_ONCE, TokenIds, Tokens

# Tokens of the training split that the bigram model counts.
MAX_BIGRAM_TOKENS = 200_000_000


def bigram_losses(
    train: Tokens,
    validation: Tokens,
    test: Tokens,
    *,
    vocab_size: int,
    end_of_text_id: int,
) -> NDArray[np.float64]:
    """Return each test token's loss, in nats, to a model that knows one token back.

    It mixes how often a token follows the last one with how often it comes at all:
    P(w | v) = λ c(v, w) / c(v) + (1 - λ) (c(w) + 1) / (N + V), an interpolated bigram
    (Jelinek and Mercer, 1980). λ is fitted to the validation split.
    """
    num_train = min(len(train), MAX_BIGRAM_TOKENS)
    pairs = {
        name: _pairs(np.concatenate([[end_of_text_id], split[:]]), vocab_size)
        for name, split in (("validation", validation), ("test", test))
    }
    distinct = np.unique(np.concatenate(list(pairs.values())))
    single = np.zeros(vocab_size, dtype=np.int64)
    counts = np.zeros(len(distinct), dtype=np.int64)
    for first in range(0, num_train, TOKENS_AT_ONCE):
        piece = train[first : min(first + TOKENS_AT_ONCE + 1, num_train)]
        single += np.bincount(piece[:TOKENS_AT_ONCE], minlength=vocab_size)
        seen = _pairs(piece, vocab_size)
        place = np.searchsorted(distinct, seen).clip(max=len(distinct) - 1)
        counts += np.bincount(place[distinct[place] == seen], minlength=len(distinct))

    def probabilities(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        previous, following = np.divmod(pairs[name], vocab_size)
        together = counts[np.searchsorted(distinct, pairs[name])]
        return (
            together / np.maximum(single[previous], 1),
            (single[following] + 1) / (num_train + vocab_size),
        )

    bigram, unigram = probabilities("validation")
    weight = 0.5
    for _ in range(20):  # expectation maximisation; it converges long before
        share = weight * bigram
        weight = float((share / (share + (1 - weight) * unigram)).mean())
    bigram, unigram = probabilities("test")
    losses: NDArray[np.float64] = -np.log(weight * bigram + (1 - weight) * unigram)
    return losses


def _pairs(tokens: TokenIds, vocab_size: int) -> NDArray[np.int64]:
    """Return one number for each token and its follower."""
    wide = tokens.astype(np.int64)
    return wide[:-1] * vocab_size + wide[1:]


def xz_bits_per_byte(tokens: Tokens, bytes_of_token: list[bytes]) -> float:
    """Return how many bits `xz -9e` needs per byte of the text of the tokens."""
    compressor = lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME)
    num_bytes = num_compressed = 0
    for first in range(0, len(tokens), TOKENS_AT_ONCE):
        piece = tokens[first : first + TOKENS_AT_ONCE].tolist()
        text = b"".join(bytes_of_token[token] for token in piece)
        num_bytes += len(text)
        num_compressed += len(compressor.compress(text))
    num_compressed += len(compressor.flush())
    return 8 * num_compressed / num_bytes
