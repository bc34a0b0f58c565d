"""How sure a difference is: both models on the same documents, one by one."""

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


def paired_standard_error(
    before: Revision, now: Revision, *, overlap_fraction: float
) -> float:
    """Evaluate two models, and return the standard error of their difference.

    In bits per byte. What both models find hard, or easy, cancels out.

    Args:
        before: The baseline, which was measured on the same test split.
        now: The experiment.
        overlap_fraction: Share of each window that is context alone, as in `evaluate`.

    Raises:
        InputError: A model or the splits are not to be had, or damaged.
    """
    token_losses = []
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
            token_losses.append(evaluation.token_losses)
        bytes_of_token = bytes_of_tokens(loaded.tokenizer)
        return bits_per_byte_standard_error(
            token_losses[1] - token_losses[0],
            test,
            bytes_of_token=np.array([len(token) for token in bytes_of_token]),
            end_of_text_id=manifest.end_of_text_id,
        )
