"""Checkpoints of a training: they change no weight, and no diverged step is saved."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.resuming.tiny_training import before_call, steps_kept, train_tiny
from tests.tiny import tiny_model
from toygpt.data.batches import TrainingBatches
from toygpt.pipeline.errors import InputError
from toygpt.training import loop


@pytest.mark.parametrize("runtime", [{"checkpoint_every_steps": 3}, {}], ids=str)
def test_checkpoints_change_no_weight(tmp_path: Path, runtime: dict[str, Any]) -> None:
    with_them, without = (tiny_model(num_layers=1, dropout=0.1) for _ in range(2))
    never = {"checkpoint_every_steps": 11}

    train_tiny(tmp_path / "with", model=with_them, runtime=runtime, dropout=0.1)
    train_tiny(tmp_path / "without", model=without, runtime=never, dropout=0.1)

    assert steps_kept(tmp_path / "with") == ([9, 6] if runtime else [5])
    assert steps_kept(tmp_path / "without") == []
    for weight, same in zip(with_them.parameters(), without.parameters(), strict=True):
        assert torch.equal(weight, same)


@pytest.mark.parametrize(("every", "kept"), [(1, [6, 5]), (5, [5]), (7, [])])
@pytest.mark.parametrize("micro_batch_size", [64, 4])
def test_training_that_diverges_stops_in_its_step_and_keeps_the_good_ones(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    every: int,
    kept: list[int],
    micro_batch_size: int,
) -> None:
    model = tiny_model(num_layers=1)
    runtime = {"checkpoint_every_steps": every, "micro_batch_size": micro_batch_size}

    def spoil() -> None:
        with torch.no_grad():
            model.final_norm.weight[0] = torch.nan

    call = 7 if micro_batch_size == 64 else 13  # the first batch of the seventh step
    with (
        pytest.raises(InputError, match=r"loss is nan in step 7, .* from batch 6 "),
        before_call(TrainingBatches, "sequences", call, spoil),
    ):
        train_tiny(tmp_path, model=model, runtime=runtime)

    assert steps_kept(tmp_path) == kept
    assert train_tiny(tmp_path, runtime=runtime).steps == 10
    resumed = [f"resuming after step {step}\n" for step in kept]
    assert all(line in capsys.readouterr().out for line in resumed[:1])


def test_weights_that_a_step_has_spoiled_are_not_saved_though_its_loss_was_good(
    tmp_path: Path,
) -> None:
    """The loss is computed before the weights change; one step may go too far."""
    with pytest.raises(InputError, match=r"diverged: the norm of the weights is "):
        train_tiny(
            tmp_path,
            runtime={"checkpoint_every_steps": 1},
            learning_rate=1e38,
            weight_decay=0.0,
            validate_every_tokens=10**9,
        )

    assert steps_kept(tmp_path) == []


def test_a_last_validation_that_fails_costs_no_more_than_a_kill(
    tmp_path: Path,
) -> None:
    def run_out_of_memory() -> None:
        raise MemoryError

    with (
        pytest.raises(MemoryError),
        before_call(loop, "validate", 2, run_out_of_memory),
    ):
        train_tiny(tmp_path, runtime={"checkpoint_every_steps": 3})

    assert steps_kept(tmp_path) == [9, 6]
