"""Write the splits: copy each piece of the corpus to the file of its split."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toygpt.data.manifest import Part
from toygpt.data.split import SPLITS, Assignment
from toygpt.data.token_files import TOKENS_AT_ONCE, TokenIds


def write_splits(
    tokens: TokenIds,
    assignment: Assignment,
    directory: Path,
    bytes_of_token: NDArray[np.int64],
    end_of_text_id: int,
) -> dict[str, Part]:
    """Copy each piece to the file of its split, in the order of the corpus.

    A piece whose document continues gets an end of text of its own, so that no sequence
    runs from it into the next document of its split.

    Args:
        tokens: The token ids of all documents, one after another.
        assignment: The split of each piece.
        directory: The folder for train.bin, validation.bin and test.bin.
        bytes_of_token: How many bytes of text each token id stands for.
        end_of_text_id: The token id of `<|endoftext|>`.

    Returns:
        How much each split holds; a part of a document counts as one document.
    """
    num_tokens, num_bytes = [0] * len(SPLITS), [0] * len(SPLITS)
    splits = assignment.splits
    last_of_run = np.append(np.flatnonzero(np.diff(splits)), len(splits) - 1)
    end_of_text = np.array([end_of_text_id], dtype=tokens.dtype)
    with ExitStack() as stack:
        files = [
            stack.enter_context((directory / f"{name}.bin").open("wb"))
            for name in SPLITS
        ]
        start = 0
        for split, end, is_cut in zip(
            splits[last_of_run].tolist(),
            assignment.ends[last_of_run].tolist(),
            assignment.is_cut[last_of_run].tolist(),
            strict=True,
        ):
            for first in range(start, end, TOKENS_AT_ONCE):
                piece = tokens[first : min(first + TOKENS_AT_ONCE, end)]
                files[split].write(piece.data)
                num_tokens[split] += len(piece)
                num_bytes[split] += int(bytes_of_token[piece].sum())
            if is_cut:
                files[split].write(end_of_text.data)
                num_tokens[split] += 1
            start = end
    num_documents = np.bincount(splits, minlength=len(SPLITS)).tolist()
    return {
        name: Part(*counts)
        for name, *counts in zip(
            SPLITS, num_tokens, num_documents, num_bytes, strict=True
        )
    }
