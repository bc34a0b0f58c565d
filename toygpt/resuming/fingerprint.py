"""The fingerprint of a training: a digest of all inputs of its weights."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import sha256_of

if TYPE_CHECKING:
    from toygpt.pipeline.params import Params

# Inputs that may change when a training is resumed, if the user asks for it by
# `resume --precision`: the precision, and the attention and the kernels that are the
# fastest with it. All of them change how the weights are rounded.
CHANGEABLE = {"train.precision", "train.attention", "train.kernels"}

CODE_FOLDERS = ("stages", "toygpt")
LENGTH = 32  # of a fingerprint, in hexadecimal digits
DIGEST_LENGTH = 64


def fingerprint_inputs(
    params: "Params",
    *,
    vocab_size: int,
    split_digests: Mapping[str, str],
    precision: str,
    attention: str,
    kernels: str,
    project: Path = Path(),
) -> dict[str, Any]:
    """Return all inputs of the weights, but for the hardware that computes them.

    Args:
        params: All parameters.
        vocab_size: Of the tokenizer.
        split_digests: SHA-256 digest of each token file, by its name.
        precision: What `train.precision` stands for on this machine.
        attention: What `train.attention` stands for on this machine.
        kernels: What `train.kernels` stands for on this machine.
        project: The folder of dvc.yaml and of the code; the working directory is the
            one that DVC runs the stage in, be it a temporary copy of the project.
    """
    return {
        "seed": params.seed,
        **{f"model.{key}": v for key, v in params.chosen_model.model_dump().items()},
        **{f"train.{key}": v for key, v in params.train.model_dump().items()},
        "train.precision": precision,
        "train.attention": attention,
        "train.kernels": kernels,
        "vocab_size": vocab_size,
        **split_digests,
        **{path.as_posix(): sha256_of(project / path) for path in train_code(project)},
    }


def train_code(project: Path) -> list[Path]:
    """Return the source files that dvc.yaml declares as dependencies of `train`.

    So DVC and the fingerprint agree on the code that determines the weights: where DVC
    would train again after a change, an interrupted training is not continued either.

    Args:
        project: The folder of dvc.yaml. The paths returned are relative to it.
    """
    from ruamel.yaml import YAML

    stages = YAML(typ="safe").load(project / "dvc.yaml")["stages"]
    files = set()
    for dep in map(Path, stages["train"]["deps"]):
        if dep.parts[0] in CODE_FOLDERS:
            files |= set((project / dep).rglob("*.py")) or {project / dep}
    return sorted(path.relative_to(project) for path in files)


def fingerprint_of(inputs: Mapping[str, Any]) -> str:
    """Return the digest of all inputs; their order makes no difference."""
    text = json.dumps(inputs, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def differences(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return the two values of each key whose values differ."""
    return {
        key: (one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    }


def check_same_but_precision(
    name: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Refuse to continue a training with inputs that make another one of it.

    Args:
        name: Of the training.
        before: The inputs that it was started with.
        now: The inputs that it would be continued with.

    Raises:
        InputError: Other inputs than the `CHANGEABLE` ones differ.
    """
    changed = {
        key: values
        for key, values in differences(before, now).items()
        if key not in CHANGEABLE
    }
    if changed:
        raise InputError(
            f"this is not the training that was interrupted ({name}): "
            + "; ".join(
                f"{key} was {shown(was)} and is {shown(is_now)}"
                for key, (was, is_now) in changed.items()
            )
        )


def shown(value: Any) -> str:
    """Return a value as messages show it."""
    # The start of a digest is enough to see that it is another.
    return f"{str(value)[:12]}…" if is_digest(value) else str(value)


def is_digest(value: Any) -> bool:
    """Return whether a value is a SHA-256 digest, of which users learn nothing."""
    return len(str(value)) == DIGEST_LENGTH
