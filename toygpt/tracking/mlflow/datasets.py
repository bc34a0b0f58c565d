"""The splits that a run trained and was evaluated on, as MLflow's datasets."""

import json
from collections.abc import Mapping
from typing import Any

# MLflow's words for what a split is for.
CONTEXTS = {"train": "training", "validation": "validation", "test": "test"}
MAX_DIGEST_LENGTH = 36


def log_datasets(
    client: Any, run_id: str, params: Mapping[str, Any], metadata: Mapping[str, str]
) -> None:
    """Log each split whose digest is known as an input of a run; again does no harm.

    Args:
        client: MLflow's.
        run_id: MLflow's id of the run.
        params: All parameters: they say where the corpus comes from.
        metadata: Of the run: it has the digests of the splits' files.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    corpus = params.get("corpus")
    source_type, source = _source_of(params)
    inputs = [
        DatasetInput(
            Dataset(
                name=f"{corpus}-{split}",
                digest=digest[:MAX_DIGEST_LENGTH],
                source_type=source_type,
                source=json.dumps(source),
            ),
            [InputTag("mlflow.data.context", context), InputTag("sha256", digest)],
        )
        for split, context in CONTEXTS.items()
        if (digest := metadata.get(f"{split}.bin.sha256"))
    ]
    if inputs:
        client.log_inputs(run_id, inputs)


def _source_of(params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return where a corpus comes from, and the type that MLflow's pages know.

    They link a Hugging Face dataset to its page, if the corpus is one of them alone.
    """
    prefix = f"corpora.{params.get('corpus')}."
    source = {
        key.removeprefix(prefix): value
        for key, value in params.items()
        if key.startswith(prefix)
    }
    hub = {
        key.removeprefix("hub."): value
        for key, value in params.items()
        if key.startswith("hub.")
    }
    repositories = [value for key, value in hub.items() if key.endswith(".repository")]
    if len(repositories) == 1:
        return "hugging_face", {"path": repositories[0], **hub}
    return str(source.get("source", "unknown")), source | hub
