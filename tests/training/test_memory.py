"""How many sequences are held at once, where `runtime.micro_batch_size` is auto."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from toygpt.model.gpt import GPT, GPTConfig
from toygpt.training.memory import (
    GIB,
    bytes_per_sequence,
    fitting_sequences,
    max_micro_batch_size,
)
from toygpt.training.sharding import ShardedStrategy

SMALL = GPTConfig(50257, 12, 8, 512, 768, dropout=0.0)
NANO = GPTConfig(2048, 2, 4, 128, 256, dropout=0.0)
LARGE = GPTConfig(50257, 24, 16, 512, 2048, dropout=0.0)


def fabric_of(device: str, *, is_split: bool = False) -> Any:
    strategy: Any = SimpleNamespace()
    if is_split:
        strategy = ShardedStrategy(is_mixed=True, timeout=timedelta(minutes=1))
    strategy.precision = SimpleNamespace(precision="bf16-mixed")
    return SimpleNamespace(device=torch.device(device), strategy=strategy, world_size=1)


def most_of(
    config: GPTConfig,
    choice: Any = "auto",
    device: str = "cuda",
    *,
    attention: str = "flash",
    kernels: Any = "plain",
    is_split: bool = False,
) -> int:
    with torch.device("meta"):  # sizes alone
        model = GPT(config, attention=attention)
    fabric = fabric_of(device, is_split=is_split)
    return max_micro_batch_size(
        choice, model, fabric, is_compiled=True, kernels=kernels
    )


@pytest.mark.parametrize(
    ("choice", "device", "gib", "expected"),
    [
        ("auto", "cpu", 0, 64),
        ("auto", "mps", 0, 64),
        (5, "cuda", 80, 5),
        ("auto", "cuda", 80, 83),  # as many logits as 32 bits count
        ("auto", "cuda", 16, 47),
        ("auto", "cuda", 1, 1),
    ],
)
def test_a_gpu_gets_as_many_sequences_as_fit(
    monkeypatch: pytest.MonkeyPatch, choice: Any, device: str, gib: int, expected: int
) -> None:
    properties = SimpleNamespace(total_memory=gib * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)

    found = most_of(SMALL, choice, device)

    assert found == expected


def test_more_than_128_are_never_taken_and_the_table_of_scores_needs_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    properties = SimpleNamespace(total_memory=20 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)

    assert most_of(NANO) == 128
    assert most_of(SMALL, attention="flash") > 1.5 * most_of(
        SMALL, attention="from_scratch"
    )


def test_where_weights_are_split_a_plain_loss_is_not_compiled_and_needs_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    properties = SimpleNamespace(total_memory=16 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)

    whole = most_of(SMALL)
    plain, fused = (
        most_of(SMALL, kernels=kernels, is_split=True) for kernels in ("plain", "fused")
    )

    assert plain < 0.6 * whole
    assert fused == whole


def test_all_logits_can_be_counted_in_32_bits() -> None:
    most = fitting_sequences(
        800 * GIB, SMALL, bytes_per_number=2, is_compiled=True, is_loss_fused=True
    )

    assert most * 512 * 50_304 < 2**31 <= (most + 1) * 512 * 50_304


@pytest.mark.parametrize(
    ("config", "sequences", "is_compiled", "gib"),
    # What a step held beside weights, gradients and optimizer: on an H100 (the first
    # two), and as `benchmarks/memory.py` computes it.
    [(SMALL, 64, True, 12), (SMALL, 64, False, 27), (LARGE, 32, False, 36)],
)
def test_the_estimate_is_above_what_was_measured_but_not_by_half(
    config: GPTConfig, sequences: int, is_compiled: bool, gib: float
) -> None:
    found = bytes_per_sequence(
        config,
        bytes_per_number=2,
        is_compiled=is_compiled,
        is_loss_fused=is_compiled,
    )

    assert gib < sequences * found / GIB < 1.5 * gib


def test_numbers_of_32_bits_and_larger_networks_leave_room_for_fewer() -> None:
    def fitting(config: GPTConfig, size: int) -> int:
        return fitting_sequences(
            40 * GIB,
            config,
            bytes_per_number=size,
            is_compiled=True,
            is_loss_fused=True,
        )

    assert fitting(SMALL, 2) > fitting(SMALL, 4) > fitting(LARGE, 4)
