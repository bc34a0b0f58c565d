"""What `auto` stands for: precision, attention, kernels, compiling."""

from typing import Any

import pytest
import torch

from toygpt.training.precision import (
    resolve_attention,
    resolve_kernels,
    resolve_precision,
    should_compile,
)


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
    assert resolve_precision("32-true", accelerator) == "32-true"
    assert resolve_precision("bf16-mixed", accelerator) == "bf16-mixed"


@pytest.mark.parametrize(
    ("attention", "precision", "accelerator", "expected"),
    [
        ("auto", "bf16-mixed", "cpu", "from_scratch"),
        ("auto", "32-true", "cpu", "flash"),
        ("auto", "bf16-mixed", "auto", "flash"),
        ("flash", "bf16-mixed", "cpu", "flash"),
        ("from_scratch", "32-true", "cpu", "from_scratch"),
    ],
)
def test_attention_is_by_matrices_where_flash_attention_is_slower(
    monkeypatch: pytest.MonkeyPatch,
    attention: Any,
    precision: Any,
    accelerator: str,
    expected: str,
) -> None:
    """On a machine that has a GPU, too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    found = resolve_attention(attention, precision=precision, accelerator=accelerator)

    assert found == expected


@pytest.mark.parametrize(
    ("choice", "precision", "has_gpu", "expected"),
    [
        ("auto", "bf16-mixed", True, "fused"),
        ("auto", "32-true", True, "plain"),
        ("auto", "bf16-mixed", False, "fused"),
        ("plain", "bf16-mixed", True, "plain"),
        ("fused", "32-true", False, "fused"),
    ],
)
def test_kernels_are_fused_in_bf16_or_where_that_is_asked_for(
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
