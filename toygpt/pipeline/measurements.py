"""The metrics and samples of a model: whether they are of the model that is there now.

dvc.lock says which model each stage has read. But `dvc metrics show` and `dvc exp show`
read the metrics from their files, whether these fit dvc.lock or not.
"""

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
    "evaluate": (paths.METRICS / "evaluate.json", paths.EVALUATION),
    "generate-samples": (paths.METRICS / "generate-samples.json", paths.SAMPLES),
}


def remove_measurements() -> None:
    """Remove the old model's metrics and samples, here and in dvc.lock.

    DVC then shows `-` for the new model, and has to run `evaluate`, unless its run
    cache has the result for these weights: `python . track` then logs it. Without the
    entries in dvc.lock, `dvc checkout`, `pull` and `exp apply` do not restore the old
    samples.
    Metrics files are emptied, not removed: DVC takes a missing one for an error.

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
    """Replace each error of a damaged dvc.lock by one that names the command.

    Raises:
        InputError: dvc.lock cannot be parsed, or lacks an entry.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, YAMLError):
        raise InputError(
            f"{paths.LOCK} is damaged: run `git checkout {paths.LOCK}`"
        ) from None


def outdated_measurements(root: Path) -> dict[str, list[Path]]:
    """Return the metrics and samples of another model than `train` made last.

    They exist where DVC restored the model from its run cache: no stage runs then, and
    nothing calls `remove_measurements`.

    Args:
        root: The project's folder.

    Returns:
        The paths of outdated results, relative to `root`, by their stage.

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
    """Return whether a stage has measured the model that `train` made last.

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
    """Return the model's digest among a stage's deps or outs: a list of one or none."""
    entries = stages.get(stage, {}).get(kind, [])
    return [e["md5"] for e in entries if e["path"] == paths.MODEL.as_posix()]
