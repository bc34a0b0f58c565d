"""What `auto` stands for: precision, attention, kernels, compiling."""

from functools import partial
from typing import Any

import pytest
import torch

from toygpt.training.precision import (
    resolve_attention,
    resolve_kernels,
    resolve_precision,
    should_compile,
)


@pytest.mark.parametrize("accelerator", ["auto", "cpu", "gpu"])
def test_a_precision_that_was_chosen_is_kept(accelerator: str) -> None:
    assert resolve_precision("32-true", accelerator) == "32-true"
    assert resolve_precision("bf16-mixed", accelerator) == "bf16-mixed"


@pytest.mark.parametrize(
    ("accelerator", "gpu", "cpu", "expected"),
    [
        ("auto", True, False, "bf16-mixed"),
        ("gpu", False, True, "32-true"),
        ("cpu", True, False, "32-true"),
        ("auto", None, True, "bf16-mixed"),
        ("cpu", None, False, "32-true"),
    ],
)
def test_precision_is_bf16_where_the_device_multiplies_it(
    monkeypatch: pytest.MonkeyPatch,
    accelerator: str,
    gpu: bool | None,
    cpu: bool,
    expected: str,
) -> None:
    """Whether the GPU does, if there is one, and whether the processor does."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: gpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": cpu})

    assert resolve_precision("auto", accelerator) == expected


def test_attention_is_by_matrices_where_flash_attention_is_slower() -> None:
    on_a_cpu = partial(resolve_attention, accelerator="cpu")

    assert on_a_cpu("auto", precision="bf16-mixed") == "from_scratch"
    assert on_a_cpu("auto", precision="32-true") == "flash"
    for precision in ("bf16-mixed", "32-true"):
        assert on_a_cpu("flash", precision=precision) == "flash"
        assert on_a_cpu("from_scratch", precision=precision) == "from_scratch"


def test_attention_on_a_gpu_is_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    assert (
        resolve_attention("auto", precision="bf16-mixed", accelerator="auto") == "flash"
    )


@pytest.mark.parametrize(
    ("choice", "precision", "has_gpu", "expected"),
    [
        ("auto", "bf16-mixed", True, "fused"),
        ("auto", "32-true", True, "plain"),
        ("auto", "bf16-mixed", False, "plain"),
        ("plain", "bf16-mixed", True, "plain"),
        ("fused", "32-true", False, "fused"),
    ],
)
def test_kernels_are_fused_on_a_gpu_in_bf16_or_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    choice: Any,
    precision: Any,
    has_gpu: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)

    assert resolve_kernels(choice, precision=precision, accelerator="auto") == expected


@pytest.mark.parametrize(
    ("choice", "device", "expected"),
    [
        ("auto", "cpu", False),
        ("auto", "cuda", True),
        (False, "cuda", False),
        (True, "cpu", True),
    ],
)
def test_a_model_is_compiled_on_a_gpu_or_where_that_is_asked_for(
    choice: bool, device: str, expected: bool
) -> None:
    assert should_compile(choice, torch.device(device)) == expected
