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

RESULTS = paths.METRICS / "evaluate.json"
SAMPLES = paths.SAMPLES / "samples.jsonl"


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
        InputError: The model is missing or damaged, it was trained on another corpus
            than params.yaml names, results are of another model, or something was
            changed by hand.
    """
    params = load_params(root / paths.PARAMS)
    directory = root / paths.MODEL
    check_model(directory)
    lock = (root / paths.LOCK).read_text(encoding="utf-8")
    for stage, (first, *_) in outdated_measurements(root).items():
        raise InputError(
            f"{first} is of another model than {paths.MODEL}: run `dvc repro {stage}`"
        )
    _check_corpus(lock, params.corpus)
    _check_unchanged(root)
    results, samples = {}, [None]
    if is_of_this_model(lock, "evaluate"):
        results = json.loads((root / RESULTS).read_text(encoding="utf-8"))
    if is_of_this_model(lock, "generate-samples"):
        lines = (root / SAMPLES).read_text(encoding="utf-8").splitlines()
        samples = [json.loads(line) for line in lines]
    return TrainedModel(directory, params, results, samples[0])


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
    if "train" not in stages:
        raise InputError(
            f"{paths.LOCK} does not say what {paths.MODEL} was trained on: run "
            f"`dvc repro`"
        )
    trained_on = stages["train"]["params"][paths.PARAMS.name]["corpus"]
    if trained_on != corpus:
        raise InputError(
            f"{paths.MODEL} was trained on the corpus {trained_on!r}, and `corpus` in "
            f"{paths.PARAMS} is {corpus!r}: set it back, or run `dvc repro`"
        )


def _check_unchanged(root: Path) -> None:
    """Raise an error if something to publish is not what dvc.lock has the digest of."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        outs = {out.fs_path: out for out in repo.index.outs}
        for path in (paths.MODEL, RESULTS, SAMPLES.parent):
            out = outs[str(root / path)]
            # Without a digest the stage has not run since the last training.
            if out.hash_info and (not out.exists or out.changed_checksum()):
                raise InputError(
                    f"{path} is not as {paths.LOCK} has it: `python . doctor` names "
                    f"the command that restores it"
                )
