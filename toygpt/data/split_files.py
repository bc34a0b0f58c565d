"""Write the splits, and see whether each has the size asked for, and a usable one."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toygpt.data.manifest import Part
from toygpt.data.shards import Shard
from toygpt.data.split import SPLITS, TOLERANCE, Assignment, is_off
from toygpt.data.token_files import TOKENS_AT_ONCE, TokenIds
from toygpt.pipeline.errors import InputError

Fractions = Mapping[str, float]

# Training cuts its blocks from an offset, which skips at most another block.
NUM_BLOCKS = {"train": 2, "validation": 1, "test": 1}


def write_splits(
    shards: Sequence[TokenIds],
    assignment: Assignment,
    directory: Path,
    bytes_of_token: NDArray[np.int64],
    end_of_text_id: int,
) -> dict[str, Part]:
    """Copy each piece to the file of its split, in the order of the corpus.

    What a shard has of a split goes to that shard's file of the split: shard 3's to
    train-00003.bin, validation-00003.bin and test-00003.bin.

    Args:
        shards: The token ids of each shard. No document is in two of them.
        assignment: The split of each piece.
        directory: The folder for the files.
        bytes_of_token: How many bytes of text each token id stands for.
        end_of_text_id: The token id of `<|endoftext|>`.

    Returns:
        How much each split holds; a part of a document counts as one document.
    """
    counts = np.zeros((2, len(SPLITS)), dtype=np.int64)  # of tokens, and of bytes
    start = first = 0
    for number, tokens in enumerate(shards):
        end = start + len(tokens)
        last = int(np.searchsorted(assignment.ends, end, side="right"))
        counts += _write_shard(
            tokens,
            assignment.ends[first:last] - start,
            assignment.splits[first:last],
            assignment.is_cut[first:last],
            [directory / Shard(number, len(shards)).name(f"{it}.bin") for it in SPLITS],
            bytes_of_token,
            end_of_text_id,
        )
        start, first = end, last
    num_documents = np.bincount(assignment.splits, minlength=len(SPLITS)).tolist()
    return {
        name: Part(num_tokens, documents, num_bytes)
        for name, num_tokens, documents, num_bytes in zip(
            SPLITS, counts[0].tolist(), num_documents, counts[1].tolist(), strict=True
        )
    }


def _write_shard(
    tokens: TokenIds,
    ends: NDArray[np.int64],
    splits: NDArray[np.int64],
    is_cut: NDArray[np.bool_],
    split_files: Sequence[Path],
    bytes_of_token: NDArray[np.int64],
    end_of_text_id: int,
) -> NDArray[np.int64]:
    """Write the files of one shard; return the tokens, and the bytes, of each split.

    A piece whose document continues gets an end of text of its own, so that no sequence
    runs from it into the next document of its split.
    """
    counts = np.zeros((2, len(SPLITS)), dtype=np.int64)
    last_of_run = np.append(np.flatnonzero(np.diff(splits)), len(splits) - 1)
    end_of_text = np.array([end_of_text_id], dtype=tokens.dtype)
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in split_files]
        start = 0
        for split, end, is_cut_there in zip(
            splits[last_of_run].tolist(),
            ends[last_of_run].tolist(),
            is_cut[last_of_run].tolist(),
            strict=True,
        ):
            for first in range(start, end, TOKENS_AT_ONCE):
                piece = tokens[first : min(first + TOKENS_AT_ONCE, end)]
                files[split].write(piece.data)
                counts[:, split] += len(piece), bytes_of_token[piece].sum()
            if is_cut_there:
                files[split].write(end_of_text.data)
                counts[0, split] += 1
            start = end
    return counts


def fractions_asked(validation: float, test: float) -> Fractions:
    """Return the share of all tokens that each split should have."""
    return {"train": 1 - (validation + test), "validation": validation, "test": test}


def fractions_got(parts: Mapping[str, Part]) -> Fractions:
    """Return the share of all tokens that each split has."""
    num_tokens = sum(part.tokens for part in parts.values())
    return {name: parts[name].tokens / num_tokens for name in SPLITS}


def check_sizes(
    parts: Mapping[str, Part], asked: Fractions, *, model: str, block_size: int
) -> None:
    """Raise an error, with advice that helps, if a split is too small for one block.

    Args:
        parts: How much each split holds.
        asked: The share of all tokens that each split should have.
        model: The model's key in `models` of params.yaml.
        block_size: Tokens in a block of the model.

    Raises:
        InputError: A split is too small.
    """
    needed = {name: NUM_BLOCKS[name] * block_size + 1 for name in SPLITS}
    too_small = [name for name in SPLITS if parts[name].tokens < needed[name]]
    if not too_small:
        return

    num_tokens = sum(part.tokens for part in parts.values())
    least = 1 - TOLERANCE  # of its share: a split is sure to get that much
    more_text = max(needed[name] / least / asked[name] for name in SPLITS)
    advice = [f"more text (at least {math.ceil(more_text):,} tokens)"]
    larger = dict(asked) | {
        name: math.ceil(100 * needed[name] / least / num_tokens) / 100
        for name in too_small
    }
    for_train = 1 - larger["validation"] - larger["test"]
    if "train" not in too_small and for_train * least * num_tokens >= needed["train"]:
        advice.append(
            " and ".join(f"split.{name}_fraction={larger[name]}" for name in too_small)
        )
    largest_block = min((parts[name].tokens - 1) // NUM_BLOCKS[name] for name in SPLITS)
    if largest_block > 0:
        advice.append(f"models.{model}.block_size={largest_block}")
    sizes = ", ".join(
        f"the {name} split would hold {parts[name].tokens:,} and needs {needed[name]:,}"
        for name in too_small
    )
    raise InputError(
        f"{num_tokens:,} tokens of text are too few for blocks of {block_size:,}: "
        f"{sizes}. Use {', or '.join(advice)} (-S, or in params.yaml)"
    )


def summary(parts: Mapping[str, Part], asked: Fractions, assignment: Assignment) -> str:
    """Return in one line what was asked for, what came of it, and how."""
    got = fractions_got(parts)
    shares = ", ".join(
        f"{parts[name].tokens:,} to {name} ({got[name]:.2%}; asked: {asked[name]:.2%})"
        for name in SPLITS
    )
    moved, cut = assignment.num_groups_moved, assignment.num_groups_cut
    return (
        f"tokens: {shares}; groups: {assignment.num_groups - moved - cut:,} by hash, "
        f"{moved:,} moved to fit, {cut:,} cut"
    )


def warnings(parts: Mapping[str, Part], asked: Fractions) -> list[str]:
    """Return a line for each split that is far from the share asked for."""
    got = fractions_got(parts)
    return [
        f"warning: the {name} split has {got[name]:.2%} of the tokens, "
        f"{asked[name]:.2%} were asked for (split.*_fraction in params.yaml)"
        for name in SPLITS
        if is_off(got[name], asked[name])
    ]
