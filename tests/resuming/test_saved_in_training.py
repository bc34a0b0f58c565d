"""Checkpoints of a training: no diverged step is saved."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.resuming.tiny_training import before_call, steps_kept, train_tiny
from tests.tiny import tiny_model
from toygpt.data.batches import TrainingBatches
from toygpt.pipeline.errors import InputError
from toygpt.training import loop


@pytest.mark.parametrize(("every", "kept"), [(1, [6, 5]), (5, [5]), (7, [])])
@pytest.mark.parametrize(("micro_batch_size", "call"), [(64, 7), (4, 13)])
def test_training_that_diverges_stops_in_its_step_and_keeps_the_good_ones(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    every: int,
    kept: list[int],
    micro_batch_size: int,
    call: int,  # for the first micro-batch of the seventh step
) -> None:
    model = tiny_model(num_layers=1)
    runtime = {"checkpoint_every_steps": every, "micro_batch_size": micro_batch_size}

    def spoil() -> None:
        model.final_norm.weight.data[0] = torch.nan

    with (
        pytest.raises(InputError, match=r"loss is nan in step 7, .* from batch 6 "),
        before_call(TrainingBatches, "sequences", call, spoil),
    ):
        train_tiny(tmp_path, model=model, runtime=runtime)

    assert steps_kept(tmp_path) == kept
    assert train_tiny(tmp_path, runtime=runtime).outcome.steps == 10
    resumed = [f"resuming after step {step}\n" for step in kept]
    assert all(line in capsys.readouterr().out for line in resumed[:1])


def test_weights_that_a_step_has_spoiled_are_not_saved_though_its_loss_was_good(
    tmp_path: Path,
) -> None:
    """The loss is computed before the weights change; one step may go too far."""
    too_far: dict[str, Any] = {"learning_rate": 1e38, "weight_decay": 0.0}
    with pytest.raises(InputError, match=r"diverged: the norm of the weights is "):
        train_tiny(
            tmp_path,
            runtime={"checkpoint_every_steps": 1},
            validate_every_tokens=10**9,
            **too_far,
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
