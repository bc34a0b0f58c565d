"""Evaluate the model on the test split, beside what simpler means reach.

Reads:  models/toygpt/, data/splits/
Writes: metrics/evaluate.json, reports/evaluate/
"""

import math
from functools import partial
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from toygpt.data.heldout_names import read_test_documents
from toygpt.data.manifest import Manifest, check_tokenizer, open_tokens, read_manifest
from toygpt.data.tokenizer import bytes_of_tokens
from toygpt.evaluation.baselines import bigram_losses, xz_bits_per_byte
from toygpt.evaluation.breakdown import Losses, break_down
from toygpt.evaluation.calibration import calibration_bins, calibration_error
from toygpt.evaluation.context import bits_by_context
from toygpt.evaluation.excerpts import excerpts_of
from toygpt.evaluation.recital import recite
from toygpt.evaluation.report import Findings, write_report
from toygpt.evaluation.test_loss import (
    bits_per_byte_standard_error,
    evaluate,
    first_choices,
)
from toygpt.model.device import device_for
from toygpt.model.gpt import GPT
from toygpt.model.huggingface import weights_digest
from toygpt.model.loading import load_model_and_tokenizer
from toygpt.pages.labels import pieces_of
from toygpt.pipeline import paths
from toygpt.pipeline.files import new_directory, write_json
from toygpt.pipeline.params import EvaluateParams
from toygpt.pipeline.params_file import load_params
from toygpt.pipeline.stage import run
from toygpt.tracking.run import run_of_model
from toygpt.tracking.settings import with_environment


def main() -> None:
    params = load_params(paths.PARAMS)
    device = device_for(params.runtime.accelerator)
    splits = read_manifest(paths.SPLITS, made_by="split")
    check_tokenizer(splits, paths.MODEL)
    model, tokenizer, _ = load_model_and_tokenizer(paths.MODEL, device)
    # The trackers are opened while the model is evaluated.
    with run_of_model(
        weights_digest(paths.MODEL),
        tracking=with_environment(params.tracking),
        root=paths.main_root(),
    ) as tracked:
        metrics, findings = measure(model, tokenizer, splits, params.evaluate)
        with new_directory(paths.EVALUATION) as directory:
            write_report(directory, metrics, findings, splits.vocab_size)
        write_json(paths.METRICS / "evaluate.json", metrics)
        tracked.log_metrics(metrics)
        tracked.log_directory(paths.EVALUATION, name="evaluation")
    print(
        f"bits per byte on the test split: {metrics['test_bits_per_byte']:.3f} "
        f"± {metrics['test_bits_per_byte_standard_error']:.3f} "
        f"(bigram {metrics['bigram_bits_per_byte']:.3f}, "
        f"xz {metrics['xz_bits_per_byte']:.3f}); "
        f"{metrics['test_accuracy']:.1%} of the tokens guessed right"
    )


def measure(
    model: GPT, tokenizer: Tokenizer, splits: Manifest, params: EvaluateParams
) -> tuple[dict[str, float], Findings]:
    """Return the model's results on the test split, and what the report adds."""
    bytes_of_token, pieces = bytes_of_tokens(tokenizer), pieces_of(tokenizer)
    end_of_text_id = splits.end_of_text_id
    train = open_tokens(paths.SPLITS, splits, "train")
    test = open_tokens(paths.SPLITS, splits, "test")
    names = read_test_documents(paths.SPLITS, splits)
    num_bytes = splits.parts["test"].bytes
    how: dict[str, Any] = {
        "overlap_fraction": params.overlap_fraction,
        "end_of_text_id": end_of_text_id,
    }
    evaluation = evaluate(model, test, batch_size=params.batch_size, **how)
    bigram = bigram_losses(
        train,
        open_tokens(paths.SPLITS, splits, "validation"),
        test,
        vocab_size=splits.vocab_size,
        end_of_text_id=end_of_text_id,
    )
    bigram_loss = float(bigram.mean())
    losses = Losses(
        test[:],
        evaluation.token_losses / math.log(2),
        (bigram / math.log(2)).astype(np.float32),
    )
    del bigram  # twice as large
    kinds, documents, groups = break_down(
        losses, names, bytes_of_token, end_of_text_id=end_of_text_id
    )
    findings = Findings(
        excerpts=list(
            excerpts_of(
                documents, losses, partial(first_choices, model, test, **how), pieces
            )
        ),
        contexts=bits_by_context(model, losses, params.batch_size),
        bins=calibration_bins(evaluation.choices),
        kinds=kinds,
        documents=documents,
        groups=groups,
        recital=recite(
            model,
            train,
            test,
            pieces,
            num_prompts=params.recall_prompts,
            end_of_text_id=end_of_text_id,
        ),
    )
    metrics = {
        "test_loss": evaluation.loss,
        "test_perplexity": evaluation.perplexity,
        "test_bits_per_byte": evaluation.bits_per_byte(num_bytes),
        "test_bits_per_byte_standard_error": bits_per_byte_standard_error(
            evaluation.token_losses,
            test,
            bytes_of_token=np.array([len(piece) for piece in bytes_of_token]),
            end_of_text_id=end_of_text_id,
        ),
        "test_accuracy": evaluation.accuracy,
        "test_calibration_error": calibration_error(findings.bins),
        # Without passages nothing was measured.
        **{
            f"reproduced_tokens_{split}": findings.recital[split]["reproduced"]
            for split in ("train", "test")
            if split in findings.recital
        },
        "bigram_bits_per_byte": bigram_loss * len(test) / math.log(2) / num_bytes,
        "xz_bits_per_byte": xz_bits_per_byte(test, bytes_of_token),
    }
    return metrics, findings


if __name__ == "__main__":
    run(main)
