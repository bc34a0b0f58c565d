"""The project's model with what is known of it, all of it of the very same weights."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.measurements import is_of_this_model, outdated_measurements
from toygpt.pipeline.params import Params
from toygpt.pipeline.params_file import load_params


class TrainedModel(NamedTuple):
    """A model, the parameters of its data, and how it was measured."""

    directory: Path
    params: Params
    test_results: dict[str, float]  # empty if it was not evaluated
    sample: dict[str, Any] | None  # the first one; None if there is none


def read_trained_model(root: Path) -> TrainedModel:
    """Read the project's model, and its results as far as there are any.

    Args:
        root: The project's folder.

    Raises:
        InputError: The model is missing, damaged or changed, it was trained on another
            corpus than params.yaml names, or results are of another model.
    """
    params = load_params(root / paths.PARAMS)
    directory = root / paths.MODEL
    check_model(directory)
    try:
        lock = (root / paths.LOCK).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"{paths.LOCK} is missing, which says what {paths.MODEL} was trained on: "
            f"run `dvc repro`"
        ) from None
    for stage, (first, *_) in outdated_measurements(root).items():
        raise InputError(
            f"{first} is of another model than {paths.MODEL}: run `dvc repro {stage}`"
        )
    _check_corpus(lock, params.corpus)
    _check_unchanged(root)
    results, sample = {}, None
    if is_of_this_model(lock, "evaluate"):
        results = json.loads(_text_or(root / paths.METRICS / "evaluate.json", "{}"))
    if is_of_this_model(lock, "generate-samples"):
        lines = _text_or(root / paths.SAMPLES / "samples.jsonl", "").splitlines()
        sample = json.loads(lines[0]) if lines else None
    return TrainedModel(directory, params, results, sample)


def check_model(directory: Path) -> None:
    """Raise an error unless a directory holds a whole model and its tokenizer.

    Raises:
        InputError: It is missing or damaged, or model and tokenizer do not fit.
    """
    import torch

    from toygpt.model.loading import load_model_and_tokenizer

    load_model_and_tokenizer(directory, torch.device("cpu"))


def _check_corpus(lock: str, corpus: str) -> None:
    stages = YAML(typ="safe").load(lock)["stages"]
    trained_on = stages["train"]["params"][paths.PARAMS.name]["corpus"]
    if trained_on != corpus:
        raise InputError(
            f"{paths.MODEL} was trained on the corpus {trained_on!r}, and `corpus` in "
            f"{paths.PARAMS} is {corpus!r}: set it back, or run `dvc repro`"
        )


def _check_unchanged(root: Path) -> None:
    """Raise an error if the model is not the one that dvc.lock has the digest of."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        path = str(root / paths.MODEL)
        (model,) = (out for out in repo.index.outs if out.fs_path == path)
        if model.changed_checksum():
            raise InputError(
                f"{paths.MODEL} is not what `train` wrote, according to {paths.LOCK}: "
                f"`dvc checkout --force {paths.MODEL}` brings that back"
            )


def _text_or(path: Path, default: str) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else default
