"""How a run reads in MLflow: tags under one name, and a description in one line."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from toygpt.tracking.points import Known, Point

# Our tags have one beginning: the user's stand out among them.
OURS = "toygpt."
WEIGHTS_TAG = f"{OURS}weights.sha256"
DESCRIPTION_TAG = f"{OURS}description"
NOTE = "mlflow.note.content"  # what MLflow shows as the description
# Results that describe a run and rank no model: MLflow would draw a bar chart of each.
STANDARD_ERROR = "test_bits_per_byte_standard_error"
CONSTANTS = (
    "parameters",
    "steps",
    "bigram_bits_per_byte",
    "xz_bits_per_byte",
    STANDARD_ERROR,
)


def tags_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata under the names of MLflow's tags."""
    tags = {}
    for key, value in metadata.items():
        if key == "git.commit":
            tags["mlflow.source.git.commit"] = value
        else:  # some are MLflow's own
            tags[key if key.startswith("mlflow.") else OURS + key] = value
    return tags


def separate_constants(points: Sequence[Point]) -> tuple[list[Point], dict[str, str]]:
    """Return the points without the constants, and these as tags."""
    rest, tags = [], {}
    for point in points:
        constants = CONSTANTS if point.step is None else ()
        metrics = {k: v for k, v in point.metrics.items() if k not in constants}
        rest.append(Point(point.step, point.time, metrics))
        for name in point.metrics.keys() - metrics.keys():
            value = float(point.metrics[name])
            tags[OURS + name] = str(int(value) if value.is_integer() else value)
    return rest, tags


def known_constants(tags: Mapping[str, str]) -> Known:
    """Return the values that `separate_constants` made tags of.

    A tag that a person has changed to a text has no value.
    """
    known: Known = {}
    for name in CONSTANTS:
        with suppress(KeyError, ValueError):
            known[None, name] = float(tags[OURS + name])
    return known


def describe(params: Mapping[str, Any], results: Mapping[str, float]) -> str:
    """Return what a run is, and what came of it, in one line.

    Args:
        params: Of the run.
        results: The latest value of each metric, as far as there is one.
    """
    parts = []
    if "test_bits_per_byte" in results:
        value = f"{results['test_bits_per_byte']:.3f}"
        if STANDARD_ERROR in results:
            value += f" ± {results[STANDARD_ERROR]:.3f}"
        parts.append(f"{value} bits per byte on the test split")
    elif "validation_loss" in results:
        parts.append(f"validation loss {results['validation_loss']:.3f}")
    if "parameters" in results:
        parts.append(f"{results['parameters']:,.0f} parameters")
    beginning = f"{params.get('model')} on {params.get('corpus')}"
    return ": ".join(filter(None, [beginning, ", ".join(parts)]))


def description_tags(tags: Mapping[str, str], description: str) -> dict[str, str]:
    """Return the tags to set; a description that a person has written stays."""
    if tags.get(DESCRIPTION_TAG) == description:
        return {}
    is_ours = tags.get(NOTE) in (None, "", tags.get(DESCRIPTION_TAG))
    return {DESCRIPTION_TAG: description} | ({NOTE: description} if is_ours else {})
