"""All that the report of `evaluate` shows of a model, besides its results."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from toygpt.data.token_files import Tokens
from toygpt.evaluation.breakdown import (
    MIN_TOKENS,
    Kind,
    Losses,
    Text,
    kinds_of_tokens,
    passages_of,
    texts_from,
)
from toygpt.evaluation.calibration import Bin, calibration_bins
from toygpt.evaluation.context import Context, bits_by_context
from toygpt.evaluation.excerpts import excerpts_of
from toygpt.evaluation.recital import recite
from toygpt.evaluation.test_loss import Evaluation
from toygpt.model.gpt import GPT
from toygpt.pipeline.params import EvaluateParams


class Findings(NamedTuple):
    """What the report shows, each part the answer to a question."""

    excerpts: list[dict[str, Any]]
    contexts: list[Context]
    bins: list[Bin]
    kinds: list[Kind]
    documents: list[Text]
    recital: dict[str, Any]


def findings_of(
    model: GPT,
    pieces: Sequence[bytes],
    losses: Losses,
    evaluation: Evaluation,
    train: Tokens,
    names: Sequence[tuple[str, str]],
    params: EvaluateParams,
    end_of_text_id: int,
) -> Findings:
    """Return all that the report shows.

    Args:
        model: A model in evaluation mode.
        pieces: The bytes of each token id; of a special token, those of its name.
        losses: Of the tokens of the test split.
        evaluation: The model's results on the test split.
        train: The token ids of the training split.
        names: The id and the group of each document of the test split.
        params: The section `evaluate` of params.yaml.
        end_of_text_id: The token id that ends a document.
    """
    ends = np.flatnonzero(losses.tokens[:-1] == end_of_text_id) + 1
    documents = texts_from(np.append(0, ends), names, losses)
    are_enough = sum(text.tokens >= MIN_TOKENS for text in documents) >= 3
    return Findings(
        excerpts=excerpts_of(
            documents if are_enough else passages_of(documents, losses),
            losses,
            model,
            pieces,
            overlap_fraction=params.overlap_fraction,
            end_of_text_id=end_of_text_id,
        ),
        contexts=bits_by_context(model, losses, params.batch_size),
        bins=calibration_bins(evaluation.choices),
        kinds=kinds_of_tokens(losses),
        documents=documents,
        recital=recite(
            model,
            train,
            losses.tokens,
            pieces,
            num_prompts=params.recall_prompts,
            end_of_text_id=end_of_text_id,
        ),
    )
