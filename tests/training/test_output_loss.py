"""The output layer with its loss: the same as written out, in one function."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.project import PROJECT
from toygpt.training import output_loss as module
from toygpt.training.output_loss import output_loss, row_losses_in_pytorch

VOCAB_SIZE = 150  # no multiple of 64


def inputs_of(
    dtype: torch.dtype = torch.float32, *, requires_grad: bool = True
) -> tuple[list[Tensor], Tensor]:
    """Return x, weight and bias of an output layer, and the targets."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 16), torch.randn(VOCAB_SIZE, 16)
    inputs = [x.to(dtype), weight.to(dtype), torch.randn(VOCAB_SIZE).to(dtype)]
    targets = torch.randint(VOCAB_SIZE, (2, 5))
    targets[0, 0], targets[1, 4] = 0, VOCAB_SIZE - 1
    return [tensor.requires_grad_(requires_grad) for tensor in inputs], targets


def written_out(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(x, weight, bias).flatten(0, 1)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(wide), targets.flatten())


def loss_and_gradients(loss_of: Any, inputs: list[Tensor], targets: Tensor) -> Any:
    loss = loss_of(*inputs, targets)
    return [loss.detach(), *torch.autograd.grad(3 * loss, inputs)]


def error(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=str
)
def test_loss_and_gradients_are_those_of_the_formula(
    dtype: torch.dtype, tolerance: float
) -> None:
    """Also where the loss is multiplied afterwards, as over micro-batches."""
    inputs, targets = inputs_of(dtype)

    found = loss_and_gradients(output_loss, inputs, targets)
    expected = loss_and_gradients(written_out, inputs, targets)

    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert error(one, other) < tolerance


def test_in_mixed_precision_it_is_as_exact_as_written_out() -> None:
    """Both are compared with 64 bits."""
    inputs, targets = inputs_of()
    exact = loss_and_gradients(written_out, *inputs_of(torch.float64))

    with torch.autocast("cpu", torch.bfloat16):
        found = loss_and_gradients(output_loss, inputs, targets)
        plain = loss_and_gradients(written_out, inputs, targets)

    for one, other, wanted in zip(found, plain, exact, strict=True):
        assert one.dtype == torch.float32
        assert error(one, wanted) < max(0.01, 1.2 * error(other, wanted))


def test_without_gradients_none_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    scales: list[float] = []

    def watched(*tensors: Tensor, scale: float) -> None:
        scales.append(scale)
        row_losses_in_pytorch(*tensors, scale=scale)

    monkeypatch.setattr(module, "row_losses_in_pytorch", watched)
    (x, weight, bias), targets = inputs_of()
    losses = [output_loss(x, weight, bias, targets)]
    with torch.no_grad():
        losses.append(output_loss(x, weight, bias, targets))
    with torch.inference_mode():
        losses.append(output_loss(x, weight, bias, targets))

    assert losses[0].item() == losses[1].item() == losses[2].item()
    assert scales == [1 / 10, 0, 0]


def test_the_operator_keeps_the_rules_of_pytorch() -> None:
    """Its shapes without computing, its gradient, and that it changes no input."""
    (x, weight, bias), targets = inputs_of()

    for needs_gradients in (True, False):
        arguments = (x.flatten(0, 1), weight, bias, targets.flatten(), needs_gradients)
        tests = ["test_schema", "test_faketensor"]
        if needs_gradients:
            tests.append("test_autograd_registration")
        torch.library.opcheck(
            module._loss_and_logit_gradients, arguments, test_utils=tests
        )


@pytest.mark.slow
def test_it_is_compiled_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the compiler itself, which relies on what the operator says of its results."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    inputs, targets = inputs_of()
    compiled = torch.compile(
        output_loss,
        fullgraph=True,
        dynamic=False,
        # For two kernels, what makes many of them faster would take 17 s more.
        options={"cpp.vec_isa_ok": False, "cpp_cache_precompile_headers": False},
    )

    found = loss_and_gradients(compiled, inputs, targets)

    expected = loss_and_gradients(output_loss, inputs, targets)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["compare", "compile"])
def test_the_kernel_of_the_gpu_writes_the_same_and_compiles_for_an_h100(
    tmp_path: Path, part: str
) -> None:
    """By Triton's interpreter, and by its compiler: neither needs a GPU."""
    pytest.importorskip("triton")
    interprets = {"TRITON_INTERPRET": "1"} if part == "compare" else {}

    done = subprocess.run(
        [sys.executable, "-m", __name__, part],
        cwd=PROJECT,
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path)} | interprets,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr


def compare_kernel(dtype: torch.dtype, scale: float) -> None:
    """Three blocks, of which the last has padding, and targets in all of them."""
    from toygpt.training import loss_kernel

    loss_kernel.BLOCK = 64
    torch.manual_seed(0)
    logits = 3 * torch.randn(6, 192).to(dtype)
    bias = torch.randn(192)
    bias[VOCAB_SIZE:] = -torch.inf
    targets = torch.tensor([0, 63, 64, 100, 128, VOCAB_SIZE - 1])
    (ours, our_losses), (same, same_losses) = (
        (logits.clone(), torch.empty(6)) for _ in range(2)
    )

    loss_kernel.row_losses(ours, bias, targets, our_losses, scale=scale)
    row_losses_in_pytorch(same, bias, targets, same_losses, scale=scale)

    torch.testing.assert_close(our_losses, same_losses)
    torch.testing.assert_close(ours, same)
    assert torch.equal(ours, logits) == (scale == 0)


def compile_kernel() -> None:
    """Raise an error if the types of the kernel do not fit, or it reads one by one."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from toygpt.training.loss_kernel import _row_loss

    types = ["*bf16", "*fp32", "*i64", "*fp32", "i32", "fp32", "constexpr", "constexpr"]
    source = ASTSource(
        _row_loss,
        signature=dict(zip(_row_loss.arg_names, types, strict=True)),
        constexprs={"HAS_GRADIENTS": True, "BLOCK": 4096},
        # As Triton finds by itself: all but the scale are multiples of 16.
        attrs={(number,): [["tt.divisibility", 16]] for number in range(5)},
    )
    assembly = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    assert "ld.global.v4.b32" in assembly
    assert "st.global.v4.b32" in assembly


if __name__ == "__main__":
    if sys.argv[1] == "compile":
        compile_kernel()
    else:
        for dtype in (torch.float32, torch.bfloat16):
            for scale in (0.0, 0.1):
                compare_kernel(dtype, scale)
