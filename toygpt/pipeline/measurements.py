"""What was measured of the model, and whether it is still the same model.

DVC knows by dvc.lock which model each stage has read. But what it shows (`dvc metrics
show`, `dvc exp show`) it reads from the files, whether they fit dvc.lock or not.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import remove_directory, write_json, write_text

# The stages that measure a trained model, and their results.
MEASUREMENTS = {
    "evaluate": (paths.METRICS / "evaluate.json",),
    "generate-samples": (paths.METRICS / "generate-samples.json", paths.SAMPLES),
}


def remove_measurements() -> None:
    """Remove what was measured of the model before, here and in dvc.lock.

    A new model takes the numbers of the old one with it. DVC then shows `-`, and has to
    run `evaluate`, unless its run cache has the result for these weights: `python .
    track` then logs it. The entries in dvc.lock go as well, or `dvc checkout`, `pull`
    and `exp apply` would bring the old samples back. Files of metrics are emptied: one
    that is missing is an error to DVC.

    Raises:
        InputError: dvc.lock cannot be read. Then nothing is removed.
    """
    lock = _lock_without_measurements() if paths.LOCK.is_file() else None
    for results in MEASUREMENTS.values():
        for path in results:
            if path.suffix == ".json":
                write_json(path, {})
            elif path.is_dir():
                remove_directory(path)
    if lock is not None:
        write_text(paths.LOCK, lock)


def _lock_without_measurements() -> str | None:
    """Return the text of dvc.lock without `MEASUREMENTS`; None if it has none."""
    yaml = YAML()
    with _damage_named():
        lock = yaml.load(paths.LOCK.read_text(encoding="utf-8"))
        outdated = lock.get("stages", {}).keys() & MEASUREMENTS.keys()
        for stage in outdated:
            del lock["stages"][stage]
    if not outdated:
        return None
    text = io.StringIO()
    yaml.dump(lock, text)
    return text.getvalue()


@contextmanager
def _damage_named() -> Iterator[None]:
    """Say of a dvc.lock that cannot be read how to restore it.

    Raises:
        InputError: In place of each error of reading it and of what it holds.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, YAMLError):
        raise InputError(
            f"{paths.LOCK} is damaged: run `git checkout {paths.LOCK}`"
        ) from None


def outdated_measurements(root: Path) -> dict[str, list[Path]]:
    """Return the results of another model than the one that `train` made last.

    There are some where DVC restored that model from its run cache: none of our code
    runs then.

    Args:
        root: The project's folder.

    Returns:
        For each stage that has such results their paths, relative to `root`.

    Raises:
        InputError: dvc.lock is damaged.
    """
    with _damage_named():
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

    Raises:
        InputError: dvc.lock is damaged.
    """
    with _damage_named():
        stages = YAML(typ="safe").load(lock).get("stages", {})
        measured = _models(stages, stage, "deps")
        return bool(measured) and measured == _models(stages, "train", "outs")


def _models(stages: Mapping[str, Any], stage: str, kind: str) -> list[str]:
    """Return the digest of the model among what a stage has read or written, if any."""
    entries = stages.get(stage, {}).get(kind, [])
    return [e["md5"] for e in entries if e["path"] == paths.MODEL.as_posix()]
