"""The fingerprint: equal for the same training, different for any other."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.project import PROJECT
from toygpt.pipeline.errors import InputError
from toygpt.resuming.fingerprint import (
    check_same_but_precision,
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


def inputs(project: Path, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"seed": 1, "rate": 0.1, "layers": 2, "text": "aa"}
    others = {"vocab_size": 9, "precision": "32-true", "attention": "flash"}
    others["kernels"] = "plain"
    values |= others | changes
    params = SimpleNamespace(
        seed=values["seed"],
        chosen_model=SimpleNamespace(model_dump=lambda: {"layers": values["layers"]}),
        train=SimpleNamespace(
            model_dump=lambda: {"rate": values["rate"], "precision": "auto"}
        ),
    )
    return fingerprint_inputs(
        params,  # type: ignore[arg-type]
        split_digests={"train.bin": values["text"]},
        project=project,
        **{name: values[name] for name in others},
    )


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"rate": 0.2},
        {"layers": 3},
        {"vocab_size": 10},
        {"text": "bb"},
        {"precision": "bf16-mixed"},
        {"attention": "from_scratch"},
        {"kernels": "fused"},
    ],
    ids=str,
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


def test_other_inputs_than_the_precision_cannot_change() -> None:
    before = {"seed": 1, "train.precision": "32-true", "train.lr": 0.5}
    check_same_but_precision("nano", before, before | {"train.precision": "bf16-mixed"})

    with pytest.raises(
        InputError,
        match=r"not the training that was interrupted \(nano\): "
        r"train\.bin was None and is abababababab…; train\.lr was 0\.5 and is 0\.25$",
    ):
        check_same_but_precision(
            "nano", before, before | {"train.lr": 0.25, "train.bin": "ab" * 32}
        )
