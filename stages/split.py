"""Assign the text to a training, a validation and a test split.

Reads:  data/documents/, data/tokens/
Writes: data/splits/, metrics/split.json
"""

import numpy as np

from toygpt.data.documents import digest_of_corpus, open_documents
from toygpt.data.engines.engine import Engine
from toygpt.data.leakage import shared_ngram_fraction
from toygpt.data.manifest import (
    check_tokenizer,
    open_manifest,
    open_tokens,
    read_ends,
    write_manifest,
)
from toygpt.data.split import SPLITS, assign_splits
from toygpt.data.split_sizes import (
    check_sizes,
    fractions_asked,
    fractions_got,
    summary,
    warnings,
)
from toygpt.data.splitting import read_hashes, write_splits
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
    source = open_manifest(paths.TOKENS, made_by="tokenize")
    shards = open_documents(paths.DOCUMENTS)
    if digest_of_corpus(shards) != source.corpus_sha256:
        raise InputError(
            f"{paths.TOKENS} was not made from {paths.DOCUMENTS}: run `dvc repro`"
        )
    check_tokenizer(source, paths.TOKENIZER)
    pieces = bytes_of_tokens(load_tokenizer(paths.TOKENIZER))

    with Engine("split", params.runtime) as engine:
        # The hashes come first, since `read_hashes` checks what `read_ends` reads.
        assignment = assign_splits(
            group_hashes=read_hashes(shards, source, engine, key=params.split.key),
            ends=read_ends(paths.TOKENS, source),
            tokens=open_tokens(paths.TOKENS, source, "tokens"),
            validation_fraction=params.split.validation_fraction,
            test_fraction=params.split.test_fraction,
            bytes_of_token=pieces,
        )
        with new_directory(paths.SPLITS) as directory:
            parts, files = write_splits(
                shards,
                source,
                assignment,
                engine,
                directory,
                np.array([len(piece) for piece in pieces]),
            )
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
                files=files,
            )
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
