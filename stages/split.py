"""Deal the documents into a training, a validation and a test split.

Reads:  data/documents/, data/tokens/
Writes: data/splits/, metrics/split.json
"""

import numpy as np

from stages import run
from toygpt import paths
from toygpt.data.corpus import DOCUMENTS_FILE, read_groups
from toygpt.data.split import (
    SPLITS,
    shared_ngram_fraction,
    split_of_group,
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
from toygpt.errors import InputError
from toygpt.files import new_directory, sha256_of, write_json
from toygpt.params import load_params

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

    def split_of(group: str) -> str:
        return split_of_group(
            group,
            key=params.split.key,
            validation_fraction=params.split.validation_fraction,
            test_fraction=params.split.test_fraction,
        )

    with new_directory(paths.SPLITS) as directory:
        parts = write_splits(
            tokens,
            ends,
            map(split_of, read_groups(paths.DOCUMENTS)),
            directory,
            np.array([len(piece) for piece in pieces]),
        )
        check_sizes(parts, block_size=params.chosen_model.block_size)
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
    write_json(
        paths.METRICS / "split.json",
        {
            f"{name}_{quantity}": getattr(parts[name], quantity)
            for name in SPLITS
            for quantity in ("tokens", "documents", "bytes")
        }
        | {"test_leakage": leakage},
    )
    print(
        ", ".join(f"{parts[name].tokens:,} tokens to {name}" for name in SPLITS)
        + f"; {leakage:.1%} of the test's {NGRAM_LENGTH}-grams are in train, too"
    )


def check_sizes(parts: dict[str, Part], *, block_size: int) -> None:
    """Refuse a split that is too small for a single block."""
    for name, part in parts.items():
        # Training cuts its blocks from an offset, which takes up to a block of its own.
        needed = (2 if name == "train" else 1) * block_size + 1
        if part.tokens < needed:
            raise InputError(
                f"the {name} split would hold {part.tokens:,} tokens, but blocks of "
                f"{block_size:,} need {needed:,}: use more text, a larger "
                f"split.*_fraction, another split.key, or a smaller "
                f"models.*.block_size in params.yaml"
            )


if __name__ == "__main__":
    run(main)
