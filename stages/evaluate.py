"""Evaluate the model on the test split, beside what simpler means reach.

Reads:  models/toygpt/, data/splits/
Writes: metrics/evaluate.json
"""

import math

import numpy as np

from toygpt.data.token_files import check_tokenizer, open_tokens, read_manifest
from toygpt.data.tokenizer import bytes_of_tokens, load_tokenizer
from toygpt.evaluation.test_loss import (
    bigram_loss,
    bits_per_byte_standard_error,
    judge,
    xz_bits_per_byte,
)
from toygpt.model.device import device_for
from toygpt.model.huggingface import load_model, weights_digest
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import write_json
from toygpt.pipeline.params_file import load_params
from toygpt.pipeline.stage import run
from toygpt.tracking.run import run_of_model


def main() -> None:
    params = load_params(paths.PARAMS)
    device = device_for(params.runtime.accelerator)
    splits = read_manifest(paths.SPLITS, made_by="split")
    check_tokenizer(splits, paths.MODEL)
    model = load_model(paths.MODEL).to(device)

    pieces = bytes_of_tokens(load_tokenizer(paths.MODEL))
    if not len(pieces) == model.config.vocab_size == splits.vocab_size:
        raise InputError(
            f"{paths.MODEL} predicts {model.config.vocab_size:,} tokens, its tokenizer "
            f"has {len(pieces):,}, {paths.SPLITS} {splits.vocab_size:,}: run "
            f"`dvc repro --force --single-item train`"
        )
    test = open_tokens(paths.SPLITS, splits, "test")
    num_bytes = splits.parts["test"].bytes
    judgement = judge(
        model,
        test,
        batch_size=params.evaluate.batch_size,
        overlap_fraction=params.evaluate.overlap_fraction,
        end_of_text_id=splits.end_of_text_id,
    )
    bigram = bigram_loss(
        open_tokens(paths.SPLITS, splits, "train"),
        open_tokens(paths.SPLITS, splits, "validation"),
        test,
        vocab_size=splits.vocab_size,
        end_of_text_id=splits.end_of_text_id,
    )
    metrics = {
        "test_loss": judgement.loss,
        "test_perplexity": judgement.perplexity,
        "test_bits_per_byte": judgement.bits_per_byte(num_bytes),
        "test_bits_per_byte_standard_error": bits_per_byte_standard_error(
            judgement.token_losses,
            test,
            bytes_of_token=np.array([len(piece) for piece in pieces]),
            end_of_text_id=splits.end_of_text_id,
        ),
        "test_accuracy": judgement.accuracy,
        "bigram_bits_per_byte": bigram * len(test) / math.log(2) / num_bytes,
        "xz_bits_per_byte": xz_bits_per_byte(test, pieces),
    }
    write_json(paths.METRICS / "evaluate.json", metrics)
    with run_of_model(
        weights_digest(paths.MODEL), tracking=params.tracking, root=paths.main_root()
    ) as tracked:
        tracked.log_metrics(metrics)
    print(
        f"bits per byte on the test split: {metrics['test_bits_per_byte']:.3f} "
        f"± {metrics['test_bits_per_byte_standard_error']:.3f} "
        f"(bigram {metrics['bigram_bits_per_byte']:.3f}, "
        f"xz {metrics['xz_bits_per_byte']:.3f}); "
        f"{judgement.accuracy:.1%} of the tokens guessed right"
    )


if __name__ == "__main__":
    run(main)
