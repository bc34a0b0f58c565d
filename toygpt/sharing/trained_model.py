"""The project's model with what is known of it, all of it of the very same weights."""

import json
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from toygpt.pipeline import paths
from toygpt.pipeline.dvc_errors import dvc_errors
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.measurements import (
    MEASUREMENTS,
    is_of_this_model,
    outdated_measurements,
)
from toygpt.pipeline.params import Params, flatten
from toygpt.pipeline.params_file import load_params

RESULTS = paths.METRICS / "evaluate.json"
SAMPLES = paths.SAMPLES / "samples.jsonl"


class TrainedModel(NamedTuple):
    """A model, the parameters of its data, and how it was measured."""

    directory: Path
    files: list[Path]  # of the directory, without those that DVC ignores
    params: Params
    test_results: dict[str, float]  # empty if it was not evaluated
    sample: dict[str, Any] | None  # the first one; None if there is none


def read_trained_model(root: Path) -> TrainedModel:
    """Read the project's model, and its results as far as there are any.

    Args:
        root: The project's folder.

    Raises:
        InputError: The model is missing or damaged, it was trained on other data than
            params.yaml names, results are of another model, something was changed by
            hand, or DVC cannot read the project.
    """
    params = load_params(root / paths.PARAMS)
    directory = root / paths.MODEL
    check_model(directory)
    lock = (root / paths.LOCK).read_text(encoding="utf-8")
    for stage, (first, *_) in outdated_measurements(root).items():
        raise InputError(
            f"{first} is of another model than {paths.MODEL}: run `dvc repro {stage}`"
        )
    _check_data(lock, params)
    measured = [stage for stage in MEASUREMENTS if is_of_this_model(lock, stage)]
    shown = [paths.MODEL, *(p for stage in measured for p in MEASUREMENTS[stage])]
    files = _model_files(root, unchanged=shown)
    results, samples = {}, [None]
    if "evaluate" in measured:
        results = json.loads((root / RESULTS).read_text(encoding="utf-8"))
    if "generate-samples" in measured:
        lines = (root / SAMPLES).read_text(encoding="utf-8").splitlines()
        samples = [json.loads(line) for line in lines]
    return TrainedModel(directory, files, params, results, samples[0])


def check_model(directory: Path) -> None:
    """Raise an error unless a directory holds a whole model and its tokenizer.

    Raises:
        InputError: It is missing or damaged, or model and tokenizer do not fit.
    """
    import torch

    from toygpt.model.loading import load_model_and_tokenizer

    load_model_and_tokenizer(directory, torch.device("cpu"))


def _check_data(lock: str, params: Params) -> None:
    """Raise an error unless the parameters name the data that the model learned from.

    Args:
        lock: The text of dvc.lock.
        params: The parameters that the card is written from.
    """
    stages = YAML(typ="safe").load(lock).get("stages", {})
    if not stages.keys() >= {"download", "train"}:
        raise InputError(
            f"{paths.LOCK} does not say what {paths.MODEL} was trained on: run "
            f"`dvc repro`"
        )
    gathered = stages["download"].get("params", {}).get(paths.PARAMS.name, {})
    gathered_with = dict(flatten(gathered))
    for key, value in params.in_use().items():
        used = gathered_with.get(key)
        if key.startswith(("corpus", "corpora.", "hub.")) and used != value:
            raise InputError(
                f"the data of {paths.MODEL} were gathered with {key} "
                f"{reprlib.repr(used)}, and in {paths.PARAMS} it is "
                f"{reprlib.repr(value)}: set it back, or run `dvc repro`"
            )
    newest = {
        out["path"]: out for stage in stages.values() for out in stage.get("outs", [])
    }
    for name in ("tokenize", "split", "train"):
        for dep in stages.get(name, {}).get("deps", []):
            out = newest.get(dep["path"], dep)
            if out.get("md5") != dep.get("md5"):
                raise InputError(
                    f"{paths.MODEL} was trained on another {dep['path']} than is "
                    f"there now: run `dvc repro`"
                )


def _model_files(root: Path, *, unchanged: Sequence[Path]) -> list[Path]:
    """Return the model's files, without those that DVC ignores.

    Raises:
        InputError: One of the results is not what dvc.lock has the digest of.
    """
    from dvc.repo import Repo

    with dvc_errors(), Repo(str(root)) as repo:
        outs = {out.fs_path: out for out in repo.index.outs}
        for path in unchanged:
            out = outs.get(str(root / path))
            if out is None or not out.exists or out.changed_checksum():
                raise InputError(
                    f"{path} is not as {paths.LOCK} has it: `python . doctor` names "
                    f"the command that restores it"
                )
        # What DVC ignores, such as .DS_Store, was not compared.
        found = repo.dvcignore.find(repo.fs, str(root / paths.MODEL))
        return sorted(map(Path, found))
