"""What was measured of the model, and whether it is still the same model.

DVC knows by dvc.lock which model each stage has read. But what it shows (`dvc metrics
show`, `dvc exp show`) it reads from the files, whether they fit dvc.lock or not.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from toygpt import paths
from toygpt.errors import InputError
from toygpt.files import write_json, write_text

# The stages that measure a trained model, and their results.
MEASUREMENTS = {
    "evaluate": (paths.METRICS / "evaluate.json",),
    "generate-samples": (paths.METRICS / "generate-samples.json", paths.SAMPLES),
}


def remove_measurements() -> None:
    """Remove what was measured of the model before, here and in dvc.lock.

    A new model takes the numbers of the old one with it. DVC then shows `-`, and has to
    run `evaluate`, even if the new weights are those in dvc.lock. The entries in
    dvc.lock go as well, or `dvc checkout`, `pull` and `exp apply` would bring the old
    samples back. Files of metrics are emptied: one that is missing is an error to DVC.

    Raises:
        InputError: dvc.lock cannot be read.
    """
    for results in MEASUREMENTS.values():
        for path in results:
            if path.suffix == ".json":
                write_json(path, {})
            elif path.is_dir():
                shutil.rmtree(path)
    if not paths.LOCK.is_file():
        return
    yaml = YAML()
    try:
        lock = yaml.load(paths.LOCK)
        outdated = lock["stages"].keys() & MEASUREMENTS.keys()
        for stage in outdated:
            del lock["stages"][stage]
    except (YAMLError, AttributeError, KeyError, TypeError):
        raise InputError(
            f"{paths.LOCK} is damaged: run `git checkout {paths.LOCK}`"
        ) from None
    if outdated:
        text = io.StringIO()
        yaml.dump(lock, text)
        write_text(paths.LOCK, text.getvalue())


def outdated_measurements(root: Path) -> dict[str, list[Path]]:
    """Return the results of another model than the one that `train` made last.

    There are some where DVC restored that model from its run cache: none of our code
    runs then.

    Args:
        root: The project's folder.

    Returns:
        For each stage that has such results their paths, relative to `root`.
    """
    lock = (root / paths.LOCK).read_text(encoding="utf-8")
    found = {
        stage: [path for path in results if _shows_something(root / path)]
        for stage, results in MEASUREMENTS.items()
        if not is_of_this_model(lock, stage)
    }
    return {stage: results for stage, results in found.items() if results}


def _shows_something(path: Path) -> bool:
    if path.suffix == ".json":
        return path.is_file() and path.read_text(encoding="utf-8") != "{}\n"
    return path.is_dir()


def is_of_this_model(lock: str, stage: str) -> bool:
    """Say whether a stage has measured the model that `train` made last.

    Args:
        lock: The text of dvc.lock.
        stage: One of `MEASUREMENTS`.
    """
    stages = (YAML(typ="safe").load(lock) or {}).get("stages", {})

    def model(stage: str, kind: str) -> list[str]:
        entries = stages.get(stage, {}).get(kind, [])
        return [e["md5"] for e in entries if e["path"] == paths.MODEL.as_posix()]

    measured = model(stage, "deps")
    return bool(measured) and measured == model("train", "outs")
