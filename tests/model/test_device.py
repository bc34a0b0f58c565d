"""The device that an accelerator stands for, or an error that names the others."""

import importlib
from pathlib import Path

import pytest
import torch

from tests.project import PROJECT
from tests.tiny import ABSENT_ACCELERATOR
from toygpt.model.device import device_for
from toygpt.pipeline.errors import InputError


@pytest.mark.parametrize(
    ("accelerator", "cuda", "mps", "expected"),
    [
        ("auto", True, False, "cuda"),
        ("auto", False, True, "mps"),
        ("auto", False, False, "cpu"),
        ("gpu", True, False, "cuda"),
        ("gpu", False, True, "mps"),
        ("cuda", True, False, "cuda"),
        ("mps", False, True, "mps"),
        ("cpu", True, False, "cpu"),
        ("gpu", False, False, None),
        ("cuda", False, True, None),
        ("mps", True, False, None),
    ],
)
def test_an_accelerator_is_the_one_that_was_named_or_an_error(
    monkeypatch: pytest.MonkeyPatch,
    accelerator: str,
    cuda: bool,
    mps: bool,
    expected: str | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    if expected is not None:
        assert device_for(accelerator).type == expected
        return
    available = ["cuda"] * cuda + ["mps"] * mps + ["cpu"]
    with pytest.raises(
        InputError, match=f"'{accelerator}' is not available here, only {available[0]}"
    ):
        device_for(accelerator)


@pytest.mark.parametrize("stage", ["train", "evaluate", "generate_samples"])
def test_a_stage_whose_accelerator_is_absent_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """It does not even look for its inputs, which are absent too."""
    params = (PROJECT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(
        params.replace("accelerator: auto", f"accelerator: {ABSENT_ACCELERATOR}"),
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InputError, match=r"runtime\.accelerator in params\.yaml"):
        importlib.import_module(f"stages.{stage}").main()

    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
