"""Evaluate the model on the test split, beside what simpler means reach.

Reads:  models/toygpt/, data/splits/
Writes: metrics/evaluate.json
"""

import math

import numpy as np
from tokenizers import Tokenizer

from toygpt.data.manifest import Manifest, check_tokenizer, open_tokens, read_manifest
from toygpt.data.tokenizer import bytes_of_tokens
from toygpt.evaluation.baselines import bigram_loss, xz_bits_per_byte
from toygpt.evaluation.test_loss import bits_per_byte_standard_error, evaluate
from toygpt.model.device import device_for
from toygpt.model.gpt import GPT
from toygpt.model.huggingface import weights_digest
from toygpt.model.loading import load_model_and_tokenizer
from toygpt.pipeline import paths
from toygpt.pipeline.files import write_json
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
        metrics = measure(model, tokenizer, splits, params.evaluate)
        write_json(paths.METRICS / "evaluate.json", metrics)
        tracked.log_metrics(metrics)
    print(
        f"bits per byte on the test split: {metrics['test_bits_per_byte']:.3f} "
        f"± {metrics['test_bits_per_byte_standard_error']:.3f} "
        f"(bigram {metrics['bigram_bits_per_byte']:.3f}, "
        f"xz {metrics['xz_bits_per_byte']:.3f}); "
        f"{metrics['test_accuracy']:.1%} of the tokens guessed right"
    )


def measure(
    model: GPT, tokenizer: Tokenizer, splits: Manifest, params: EvaluateParams
) -> dict[str, float]:
    """Return the model's results on the test split, and those of simpler means."""
    bytes_of_token = bytes_of_tokens(tokenizer)
    test = open_tokens(paths.SPLITS, splits, "test")
    num_bytes = splits.parts["test"].bytes
    evaluation = evaluate(
        model,
        test,
        batch_size=params.batch_size,
        overlap_fraction=params.overlap_fraction,
        end_of_text_id=splits.end_of_text_id,
    )
    bigram = bigram_loss(
        open_tokens(paths.SPLITS, splits, "train"),
        open_tokens(paths.SPLITS, splits, "validation"),
        test,
        vocab_size=splits.vocab_size,
        end_of_text_id=splits.end_of_text_id,
    )
    return {
        "test_loss": evaluation.loss,
        "test_perplexity": evaluation.perplexity,
        "test_bits_per_byte": evaluation.bits_per_byte(num_bytes),
        "test_bits_per_byte_standard_error": bits_per_byte_standard_error(
            evaluation.token_losses,
            test,
            bytes_of_token=np.array([len(token) for token in bytes_of_token]),
            end_of_text_id=splits.end_of_text_id,
        ),
        "test_accuracy": evaluation.accuracy,
        "bigram_bits_per_byte": bigram * len(test) / math.log(2) / num_bytes,
        "xz_bits_per_byte": xz_bits_per_byte(test, bytes_of_token),
    }


if __name__ == "__main__":
    run(main)
