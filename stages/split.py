"""Assign the text to a training, a validation and a test split.

Reads:  data/documents/, data/tokens/
Writes: data/splits/, metrics/split.json
"""

from itertools import compress

import numpy as np

from toygpt.data.documents import corpus_digest, read_groups, read_ids
from toygpt.data.engines import Engine
from toygpt.data.heldout_names import write_test_documents
from toygpt.data.leakage import shared_ngram_fraction
from toygpt.data.manifest import (
    check_tokenizer,
    open_shards,
    open_tokens,
    read_ends,
    read_manifest,
    write_manifest,
)
from toygpt.data.split import SPLITS, TEST, assign_splits, hash_of_group
from toygpt.data.split_files import (
    check_sizes,
    fractions_asked,
    fractions_got,
    summary,
    warnings,
    write_splits,
)
from toygpt.data.tokenizer import bytes_of_tokens, load_tokenizer
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import new_directory, write_json
from toygpt.pipeline.params_file import load_params
from toygpt.pipeline.stage import run

NGRAM_LENGTH = 13


def main() -> None:
    params = load_params(paths.PARAMS)
    asked = fractions_asked(
        params.split.validation_fraction, params.split.test_fraction
    )
    source = read_manifest(paths.TOKENS, made_by="tokenize")
    if corpus_digest(paths.DOCUMENTS) != source.corpus_sha256:
        raise InputError(
            f"{paths.TOKENS} was not made from {paths.DOCUMENTS}: run `dvc repro`"
        )
    check_tokenizer(source, paths.TOKENIZER)
    tokens = open_tokens(paths.TOKENS, source, "tokens")
    pieces = bytes_of_tokens(load_tokenizer(paths.TOKENIZER))

    assignment = assign_splits(
        tokens,
        read_ends(paths.TOKENS, source),
        (
            hash_of_group(group, key=params.split.key)
            for group in read_groups(paths.DOCUMENTS)
        ),
        validation_fraction=params.split.validation_fraction,
        test_fraction=params.split.test_fraction,
        bytes_of_token=pieces,
    )
    with new_directory(paths.SPLITS) as directory:
        bytes_of_token = np.array([len(piece) for piece in pieces])
        parts = write_splits(
            open_shards(paths.TOKENS, source, "tokens"),
            assignment,
            directory,
            bytes_of_token,
            source.end_of_text_id,
        )
        names = zip(
            read_ids(paths.DOCUMENTS), read_groups(paths.DOCUMENTS), strict=True
        )
        is_in_test = assignment.documents_in(TEST)
        write_test_documents(compress(names, is_in_test), directory)
        check_sizes(
            parts,
            asked,
            model=params.model,
            block_size=params.chosen_model.block_size,
        )
        splits = write_manifest(
            directory,
            token_type=source.token_type,
            vocab_size=source.vocab_size,
            end_of_text_id=source.end_of_text_id,
            corpus_sha256=source.corpus_sha256,
            tokenizer_sha256=source.tokenizer_sha256,
            parts=parts,
        )
    with Engine("split", params.runtime) as engine:
        leakage = shared_ngram_fraction(
            paths.SPLITS, splits, engine, length=NGRAM_LENGTH
        )
    got = fractions_got(parts)
    write_json(
        paths.METRICS / "split.json",
        {
            f"{name}_{quantity}": getattr(parts[name], quantity)
            for name in SPLITS
            for quantity in ("tokens", "documents", "bytes")
        }
        | {f"{name}_fraction_asked": asked[name] for name in SPLITS}
        | {f"{name}_fraction": got[name] for name in SPLITS}
        | {
            "groups": assignment.num_groups,
            "groups_cut": assignment.num_groups_cut,
            "groups_moved": assignment.num_groups_moved,
            "test_leakage": leakage,
        },
    )
    print(
        f"{summary(parts, asked, assignment)}; "
        f"{leakage:.1%} of the test's {NGRAM_LENGTH}-grams are in train, too"
    )
    for line in warnings(parts, asked):
        print(line)


if __name__ == "__main__":
    run(main)
