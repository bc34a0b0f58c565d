"""Assign the text to a training, a validation and a test split.

Reads:  data/documents/, data/tokens/
Writes: data/splits/, metrics/split.json
"""

import math

import numpy as np

from toygpt.data.corpus import DOCUMENTS_FILE, read_groups
from toygpt.data.leakage import shared_ngram_fraction
from toygpt.data.split import (
    SPLITS,
    TOLERANCE,
    Assignment,
    assign_splits,
    hash_of_group,
    is_off,
    write_splits,
)
from toygpt.data.token_files import (
    Part,
    check_tokenizer,
    open_tokens,
    read_ends,
    read_manifest,
    write_manifest,
)
from toygpt.data.tokenizer import bytes_of_tokens, load_tokenizer
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import new_directory, sha256_of, write_json
from toygpt.pipeline.params import Params
from toygpt.pipeline.params_file import load_params
from toygpt.pipeline.stage import run

NGRAM_LENGTH = 13


def main() -> None:
    params = load_params(paths.PARAMS)
    source = read_manifest(paths.TOKENS, made_by="tokenize")
    if sha256_of(paths.DOCUMENTS / DOCUMENTS_FILE) != source.corpus_sha256:
        raise InputError(
            f"{paths.TOKENS} was not made from {paths.DOCUMENTS}: run `dvc repro`"
        )
    check_tokenizer(source, paths.TOKENIZER)
    tokens = open_tokens(paths.TOKENS, source, "tokens")
    ends = read_ends(paths.TOKENS, source)
    pieces = bytes_of_tokens(load_tokenizer(paths.TOKENIZER))

    assignment = assign_splits(
        tokens,
        ends,
        (
            hash_of_group(group, key=params.split.key)
            for group in read_groups(paths.DOCUMENTS)
        ),
        validation_fraction=params.split.validation_fraction,
        test_fraction=params.split.test_fraction,
        bytes_of_token=pieces,
    )
    with new_directory(paths.SPLITS) as directory:
        parts = write_splits(
            tokens,
            assignment,
            directory,
            np.array([len(piece) for piece in pieces]),
            source.end_of_text_id,
        )
        check_sizes(parts, params)
        splits = write_manifest(
            directory,
            token_type=source.token_type,
            vocab_size=source.vocab_size,
            end_of_text_id=source.end_of_text_id,
            corpus_sha256=source.corpus_sha256,
            tokenizer_sha256=source.tokenizer_sha256,
            parts=parts,
        )

    leakage = shared_ngram_fraction(
        open_tokens(paths.SPLITS, splits, "test"),
        open_tokens(paths.SPLITS, splits, "train"),
        length=NGRAM_LENGTH,
        end_of_text_id=splits.end_of_text_id,
    )
    asked = fractions_asked(params)
    num_tokens = sum(part.tokens for part in parts.values())
    got = {name: parts[name].tokens / num_tokens for name in asked}
    write_json(
        paths.METRICS / "split.json",
        {
            f"{name}_{quantity}": getattr(parts[name], quantity)
            for name in SPLITS
            for quantity in ("tokens", "documents", "bytes")
        }
        | {f"{name}_fraction_asked": asked[name] for name in asked}
        | {f"{name}_fraction": got[name] for name in asked}
        | {
            "groups": assignment.num_groups,
            "groups_cut": assignment.num_groups_cut,
            "groups_moved": assignment.num_groups_moved,
            "test_leakage": leakage,
        },
    )
    print(summary(parts, asked, got, assignment, leakage))


def fractions_asked(params: Params) -> dict[str, float]:
    """Return the share of all tokens that each split should have."""
    validation, test = params.split.validation_fraction, params.split.test_fraction
    return {"train": 1 - (validation + test), "validation": validation, "test": test}


def summary(
    parts: dict[str, Part],
    asked: dict[str, float],
    got: dict[str, float],
    assignment: Assignment,
    leakage: float,
) -> str:
    """Return what was asked for, what came of it, and how; with a warning if due."""
    shares = (
        f"{parts[name].tokens:,} to {name} ({got[name]:.2%}; asked: {asked[name]:.2%})"
        for name in SPLITS
    )
    num_by_hash = (
        assignment.num_groups - assignment.num_groups_moved - assignment.num_groups_cut
    )
    line = (
        f"tokens: {', '.join(shares)}; "
        f"groups: {num_by_hash:,} by hash, "
        f"{assignment.num_groups_moved:,} moved to fit, "
        f"{assignment.num_groups_cut:,} cut; "
        f"{leakage:.1%} of the test's {NGRAM_LENGTH}-grams are in train, too"
    )
    return "\n".join(
        [
            line,
            *(
                f"warning: the {name} split has {got[name]:.2%} of the tokens, "
                f"{asked[name]:.2%} were asked for (split.*_fraction in params.yaml)"
                for name in SPLITS
                if is_off(got[name], asked[name])
            ),
        ]
    )


def check_sizes(parts: dict[str, Part], params: Params) -> None:
    """Refuse splits that are too small for a single block, and say what would do."""
    block_size = params.chosen_model.block_size
    fractions = fractions_asked(params)
    # Training cuts its blocks from an offset, which takes up to a block of its own.
    num_blocks = {"train": 2, "validation": 1, "test": 1}
    needed = {name: num_blocks[name] * block_size + 1 for name in SPLITS}
    too_small = [name for name in SPLITS if parts[name].tokens < needed[name]]
    if not too_small:
        return

    num_tokens = sum(part.tokens for part in parts.values())
    least = 1 - TOLERANCE  # of what was asked for: what a split is sure to get
    more_text = max(needed[name] / least / fractions[name] for name in SPLITS)
    ways_out = [f"more text (at least {math.ceil(more_text):,} tokens)"]
    larger = fractions | {
        name: math.ceil(100 * needed[name] / least / num_tokens) / 100
        for name in too_small
    }
    for_train = 1 - larger["validation"] - larger["test"]
    if "train" not in too_small and for_train * least * num_tokens >= needed["train"]:
        ways_out.append(
            " and ".join(f"split.{name}_fraction={larger[name]}" for name in too_small)
        )
    largest_block = min((parts[name].tokens - 1) // num_blocks[name] for name in SPLITS)
    if largest_block > 0:
        ways_out.append(f"models.{params.model}.block_size={largest_block}")
    raise InputError(
        f"{num_tokens:,} tokens of text are too few for blocks of {block_size:,}: "
        + ", ".join(
            f"the {name} split would hold {parts[name].tokens:,} and needs "
            f"{needed[name]:,}"
            for name in too_small
        )
        + f". Use {', or '.join(ways_out)} (-S, or in params.yaml)"
    )


if __name__ == "__main__":
    run(main)
