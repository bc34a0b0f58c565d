"""The fingerprint: equal for the same training, different for any other."""

from pathlib import Path
from typing import Any

import pytest

from tests.project import PROJECT
from toygpt.pipeline.params_file import load_params
from toygpt.resuming.fingerprint import (
    fingerprint_inputs,
    fingerprint_of,
    train_code,
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose train stage depends on a file and a folder of code."""
    for name in ("stages/train.py", "toygpt/model/gpt.py", "toygpt/model/a/b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "toygpt/model/notes.txt").write_text("not code")
    (tmp_path / "toygpt/other.py").write_text("not a dependency")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  train:\n    deps: [data/splits, stages/train.py, toygpt/model]\n"
    )
    return tmp_path


PARAMS = load_params(PROJECT / "params.yaml")
OTHER_MODEL = next(name for name in PARAMS.models if name != PARAMS.model)
WARMER = PARAMS.train.model_copy(update={"learning_rate": 1.0})


def inputs(project: Path, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "params": PARAMS,
        "vocab_size": 9,
        "split_digests": {"train.bin": "aa"},
        "precision": "32-true",
        "attention": "flash",
        "kernels": "plain",
    }
    return fingerprint_inputs(project=project, **values | changes)


@pytest.mark.parametrize(
    "change",
    [
        {"params": PARAMS.model_copy(update={"seed": PARAMS.seed + 1})},
        {"params": PARAMS.model_copy(update={"train": WARMER})},
        {"params": PARAMS.model_copy(update={"model": OTHER_MODEL})},
        {"vocab_size": 10},
        {"split_digests": {"train.bin": "bb"}},
        {"precision": "bf16-mixed"},
        {"attention": "from_scratch"},
        {"kernels": "fused"},
    ],
    ids=[
        "seed",
        "rate",
        "model",
        "vocabulary",
        "text",
        "precision",
        "attention",
        "kernels",
    ],
)
def test_every_input_of_the_weights_is_in_the_fingerprint(
    project: Path, change: dict[str, Any]
) -> None:
    before = inputs(project)

    assert fingerprint_of(inputs(project, **change)) != fingerprint_of(before)
    assert fingerprint_of(dict(reversed(before.items()))) == fingerprint_of(before)


@pytest.mark.parametrize(
    ("file", "is_input"),
    [
        ("stages/train.py", True),
        ("toygpt/model/gpt.py", True),
        ("toygpt/model/a/b.py", True),
        ("toygpt/model/a/new.py", True),
        ("toygpt/model/notes.txt", False),
        ("toygpt/other.py", False),
    ],
)
def test_changed_code_makes_another_training_where_dvc_would_train_again(
    project: Path, file: str, is_input: bool
) -> None:
    before = fingerprint_of(inputs(project))

    (project / file).write_text("changed")

    assert (fingerprint_of(inputs(project)) != before) == is_input


def test_the_code_of_this_project_that_computes_weights_is_in_the_fingerprint() -> None:
    code = set(train_code(PROJECT))

    for name in ("stages/train.py", "toygpt/data/batches.py", "toygpt/model/gpt.py"):
        assert Path(name) in code
    assert all((PROJECT / path).is_file() for path in code)
    assert not any("resuming" in path.parts for path in code)
