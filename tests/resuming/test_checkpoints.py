"""Checkpoints of a training: when they are kept, and what is never kept or read."""

import json
import os
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import (
    BLOCK_SIZE,
    predictable_text,
    runtime_params,
    tiny_model,
    train_params,
)
from toygpt.data.batches import TrainingBatches
from toygpt.model.gpt import GPT
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import sha256_of
from toygpt.resuming.run_folder import RunFolder, open_run_folder
from toygpt.resuming.signals import Interruption
from toygpt.training.checkpoints import CheckpointFiles, Checkpoints
from toygpt.training.report import Curves
from toygpt.training.trainer import train

TEXT = predictable_text(2_000, seed=1)


class Silence:
    """A listener that hears nothing."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Do nothing."""


def trained(
    root: Path, *, model: GPT | None = None, runtime: Any = None, **changes: Any
) -> RunFolder:
    """Train for ten steps, and leave what is kept on the way."""
    runtime = runtime_params(**runtime or {})
    with open_run_folder(root, {}) as unfinished:
        best = unfinished.best_checkpoint()
        train(
            model or tiny_model(num_layers=1),
            TEXT,
            TEXT,
            params=train_params(**changes),
            runtime=runtime,
            seed=1,
            curves=Curves(Silence()),
            checkpoints=Checkpoints(unfinished, runtime, Interruption()),
            resume_from=unfinished.path_of(best) if best else None,
        )
    return unfinished


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps of the checkpoints that are kept from here on."""
    steps: list[int] = []
    save = RunFolder.save

    def noted(self: RunFolder, step: int, write: Any) -> None:
        steps.append(step)
        save(self, step, write)

    monkeypatch.setattr(RunFolder, "save", noted)
    return steps


@pytest.mark.parametrize(
    ("every", "expected"),
    [(1, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), (3, [3, 6, 9]), (5, [5, 10]), (11, [])],
)
@pytest.mark.parametrize("micro_batch_size", [64, 4])
def test_checkpoints_come_every_so_many_steps(
    tmp_path: Path,
    saved: list[int],
    every: int,
    expected: list[int],
    micro_batch_size: int,
) -> None:
    """Validation is after step 5 and 10; it is before the checkpoint, and no second."""
    runtime = {"checkpoint_every_steps": every, "micro_batch_size": micro_batch_size}

    trained(tmp_path, runtime=runtime)

    assert saved == expected


class Clock:
    """A clock that only steps and checkpoints move, in seconds."""

    def __init__(self, *, step: float, checkpoint: float) -> None:
        self.now = 0.0
        self.step = step
        self.checkpoint = checkpoint

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let training go by this clock."""
        batch, save = TrainingBatches.batch, RunFolder.save

        def slow_batch(batches: TrainingBatches, step: int, **rows: Any) -> Any:
            self.now += self.step
            return batch(batches, step, **rows)

        def slow_save(unfinished: RunFolder, step: int, write: Any) -> None:
            self.now += self.checkpoint
            save(unfinished, step, write)

        monkeypatch.setattr(TrainingBatches, "batch", slow_batch)
        monkeypatch.setattr(RunFolder, "save", slow_save)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: 0.0)


@pytest.mark.parametrize(
    ("step", "checkpoint", "every_minutes", "expected"),
    [
        (10, 0.3, 1e9, [2, 4, 6, 8, 10]),
        (10, 0.5, 1e9, [2, 6, 10]),
        (10, 16, 1e9, [2]),
        (60, 0.3, 3, [2, 4, 6, 8, 10]),
        (60, 60, 3, [2, 5, 8]),
    ],
)
def test_validations_keep_a_checkpoint_where_it_takes_a_fiftieth_of_the_time(
    tmp_path: Path,
    saved: list[int],
    monkeypatch: pytest.MonkeyPatch,
    step: float,
    checkpoint: float,
    every_minutes: float,
    expected: list[int],
) -> None:
    """Every second step is validated. The first checkpoint shows what one takes."""
    Clock(step=step, checkpoint=checkpoint).install(monkeypatch)

    trained(
        tmp_path,
        runtime={"checkpoint_every_minutes": every_minutes},
        validate_every_tokens=2 * 8 * BLOCK_SIZE,
    )

    assert saved == expected


@pytest.mark.parametrize("every", [None, 4])
def test_checkpoints_come_every_so_many_minutes(
    tmp_path: Path, saved: list[int], monkeypatch: pytest.MonkeyPatch, every: int | None
) -> None:
    """Only the last step is validated. To write one takes a minute, too."""
    Clock(step=60, checkpoint=60).install(monkeypatch)
    runtime = {"checkpoint_every_minutes": 3, "checkpoint_every_steps": every}

    trained(tmp_path, runtime=runtime, validate_every_tokens=10**9)

    assert saved == ([3, 6, 9] if every is None else [3, 4, 7, 8])


def test_checkpoints_at_validations_change_no_weight(
    tmp_path: Path, saved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_them, without = (tiny_model(num_layers=1, dropout=0.1) for _ in range(2))
    trained(
        tmp_path / "without",
        model=without,
        runtime={"checkpoint_every_steps": 11},
        dropout=0.1,
    )
    assert saved == []
    Clock(step=10, checkpoint=0).install(monkeypatch)

    trained(tmp_path / "with", model=with_them, dropout=0.1)

    assert saved == [5, 10]
    for weight, same in zip(with_them.parameters(), without.parameters(), strict=True):
        assert torch.equal(weight, same)


def test_a_checkpoint_holds_nothing_but_numbers_and_their_names(tmp_path: Path) -> None:
    unfinished = trained(tmp_path, runtime={"checkpoint_every_steps": 5})

    best = unfinished.best_checkpoint()

    assert best is not None
    content = torch.load(unfinished.path_of(best), weights_only=True)
    assert content["global_step"] == best.step == 10


class Program:
    """What a pickle runs when it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.canary),))


@pytest.mark.parametrize("kind", ["torch", "pickle", "text", "empty"])
def test_a_checkpoint_that_is_a_program_is_refused_though_its_digest_is_right(
    tmp_path: Path, kind: str
) -> None:
    unfinished = trained(tmp_path, runtime={"checkpoint_every_steps": 10})
    path = unfinished.folder / "step-10.ckpt"
    canary = tmp_path / "canary"
    program = {"global_step": 10, "program": Program(canary)}
    if kind == "torch":
        torch.save(program, path)
    else:
        data = {"pickle": pickle.dumps(program), "text": b"state", "empty": b""}[kind]
        path.write_bytes(data)
    latest = unfinished.folder / "LATEST.json"
    values = json.loads(latest.read_text())
    values["checkpoints"][0] |= {
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
    }
    latest.write_text(json.dumps(values))

    with pytest.raises(InputError, match=r"step-10\.ckpt is no checkpoint of toyGPT"):
        trained(tmp_path)

    assert unfinished.best_checkpoint() is not None, "its digest was right"
    assert not canary.exists()
    if kind == "torch":  # the program works
        torch.load(path, weights_only=False)
        assert canary.exists()


def test_no_way_of_asking_reads_a_program(tmp_path: Path) -> None:
    """Lightning asks for weights_only=False where a path is an address."""
    canary = tmp_path / "canary"
    torch.save(Program(canary), tmp_path / "evil.ckpt")
    files = CheckpointFiles(RunFolder(tmp_path))

    for weights_only in (False, None, True):
        with pytest.raises(InputError):
            files.load_checkpoint(tmp_path / "evil.ckpt", weights_only=weights_only)

    assert not canary.exists()


def spoil(monkeypatch: pytest.MonkeyPatch, model: GPT, *, step: int) -> None:
    """Let the weights be none from a step on."""
    batch = TrainingBatches.batch

    def spoiling_batch(self: TrainingBatches, number: int, **rows: Any) -> Any:
        if number == step - 1:
            with torch.no_grad():
                model.final_norm.weight[0] = torch.nan
        return batch(self, number, **rows)

    monkeypatch.setattr(TrainingBatches, "batch", spoiling_batch)


@pytest.mark.parametrize("every", [1, 5, 6, 7])
@pytest.mark.parametrize("micro_batch_size", [64, 4])
def test_training_that_diverges_stops_within_the_step_and_keeps_what_was_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, micro_batch_size: int
) -> None:
    model = tiny_model(num_layers=1)
    spoil(monkeypatch, model, step=7)
    runtime = {"checkpoint_every_steps": every, "micro_batch_size": micro_batch_size}

    with pytest.raises(InputError, match=r"loss is nan in step 7, .* from batch 6 "):
        trained(tmp_path, model=model, runtime=runtime)

    monkeypatch.undo()
    with open_run_folder(tmp_path, {}) as unfinished:
        best = unfinished.best_checkpoint()
    assert (best.step if best else 0) == {1: 6, 5: 5, 6: 6, 7: 0}[every]
    trained(tmp_path, runtime=runtime)  # goes on from there, and comes to the end


def test_weights_that_a_step_has_spoiled_are_not_kept_though_its_loss_was_good(
    tmp_path: Path,
) -> None:
    """The loss is taken before the weights change; one step may change them too far."""
    with pytest.raises(
        InputError, match=r"diverged: the length of the weights is (inf|nan)"
    ):
        trained(
            tmp_path,
            runtime={"checkpoint_every_steps": 1},
            learning_rate=1e38,
            weight_decay=0.0,
            validate_every_tokens=10**9,
        )

    with open_run_folder(tmp_path, {}) as unfinished:
        assert unfinished.checkpoints() == []


def test_the_last_validation_can_fail_and_the_last_step_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven steps; those after the fourth are validated when training is over."""
    steps: dict[str, Any] = {
        "max_tokens": 7 * 8 * BLOCK_SIZE,
        "validate_every_tokens": 4 * 8 * BLOCK_SIZE,
    }
    runtime = {"checkpoint_every_steps": 7}
    expected, resumed = tiny_model(num_layers=1), tiny_model(num_layers=1, seed=5)
    trained(tmp_path / "whole", model=expected, **steps)

    def run_out_of_memory(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr("lightning.Trainer.validate", run_out_of_memory)
        trained(tmp_path, runtime=runtime, **steps)

    trained(tmp_path, model=resumed, runtime=runtime, **steps)

    for weight, same in zip(expected.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(weight, same)
