"""How large and how sure a difference is: both models on the same documents."""

from contextlib import ExitStack

import numpy as np

from toygpt.data.manifest import check_tokenizer, open_tokens, read_manifest
from toygpt.data.tokenizer import bytes_of_tokens
from toygpt.evaluation.test_loss import bits_per_byte_standard_error, evaluate
from toygpt.model.device import device_for
from toygpt.model.loading import load_model_and_tokenizer
from toygpt.pipeline import paths
from toygpt.pipeline.revision import Revision

WINDOWS_AT_ONCE = 16


def evaluate_both(
    before: Revision, now: Revision, *, overlap_fraction: float
) -> tuple[list[float], float]:
    """Evaluate two models with the code that is here.

    What both models find hard, or easy, cancels out in the error of their difference.

    Args:
        before: The baseline, which was measured on the same test split.
        now: The experiment.
        overlap_fraction: Share of each window that is context alone, as in `evaluate`.

    Returns:
        The bits per byte of each, and the standard error of their difference.

    Raises:
        InputError: A model or the splits are not to be had, or damaged.
    """
    evaluations = []
    with ExitStack() as stack:
        splits = stack.enter_context(now.folder(paths.SPLITS))
        manifest = read_manifest(splits, made_by="split")
        test = open_tokens(splits, manifest, "test")
        for revision in (before, now):
            directory = stack.enter_context(revision.folder(paths.MODEL))
            check_tokenizer(manifest, directory)
            loaded = load_model_and_tokenizer(directory, device_for("auto"))
            evaluation = evaluate(
                loaded.model,
                test,
                batch_size=WINDOWS_AT_ONCE,
                overlap_fraction=overlap_fraction,
                end_of_text_id=manifest.end_of_text_id,
            )
            evaluations.append(evaluation)
        bytes_of_token = bytes_of_tokens(loaded.tokenizer)
        error = bits_per_byte_standard_error(
            evaluations[1].token_losses - evaluations[0].token_losses,
            test,
            bytes_of_token=np.array([len(token) for token in bytes_of_token]),
            end_of_text_id=manifest.end_of_text_id,
        )
        num_bytes = manifest.parts["test"].bytes
        return [it.bits_per_byte(num_bytes) for it in evaluations], error
