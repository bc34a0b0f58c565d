"""A training that was interrupted ends with the weights of one that was not."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch

from tests.project import PATIENCE_SECONDS, PROJECT
from tests.resuming.tiny_training import before_call, train_tiny
from tests.tiny import tiny_model
from tests.training.trained import TOKENS_PER_STEP
from toygpt.data.batches import TrainingBatches
from toygpt.resuming.signals import Stopped
from toygpt.training import plan
from toygpt.training.loop import Outcome

pytestmark = pytest.mark.slow

STEPS = 10
# Validated at steps 4, 8 and 10: an interruption comes before, at, and after each.
PARAMS: dict[str, Any] = {
    "max_tokens": STEPS * TOKENS_PER_STEP,
    "warmup_tokens": 3 * TOKENS_PER_STEP,
    "decay_tokens": 4 * TOKENS_PER_STEP,
    "validate_every_tokens": 3 * TOKENS_PER_STEP + 1,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw"},
    "muon": {"optimizer": "muon"},
    "dropout": {"optimizer": "muon", "dropout": 0.1},
    "accumulation": {"optimizer": "adamw", "micro_batch_size": 3, "dropout": 0.1},
    "bf16": {"optimizer": "muon", "precision": "bf16-mixed"},
    "from scratch": {"optimizer": "muon", "attention": "from_scratch"},
    "clipped": {"optimizer": "adamw", "gradient_clip_norm": 0.05},
    "even": {"optimizer": "adamw", "validate_every_tokens": 5 * TOKENS_PER_STEP},
}


class Result(NamedTuple):
    """The result of a training: two are equal if each bit is."""

    outcome: Outcome
    weights: list[bytes]
    curves: dict[str, Any]


class StopAt:
    """A logger that sends a signal in the midst of a step, to the last rank alone."""

    def __init__(self, step: int | None, devices: int = 1) -> None:
        self.step = step
        self.last_rank = str(devices - 1)
        self.logged: set[int] = set()

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Send it when the step is logged."""
        self.logged.add(step)
        is_last_rank = os.environ.get("LOCAL_RANK", "0") == self.last_rank
        if step == self.step and "train_loss" in metrics and is_last_rank:
            os.kill(os.getpid(), signal.SIGTERM)


def resumed(
    root: Path,
    *,
    logger: StopAt | None = None,
    every: int | None = None,
    micro_batch_size: int = 64,
    devices: int = 1,
    attention: str = "flash",
    **changes: Any,
) -> Result:
    """Train, from the start or from the last checkpoint.

    Raises:
        Stopped: As was asked for.
    """
    dropout = changes.get("dropout", 0.0)
    model = tiny_model(dropout=dropout, attention=attention, num_layers=1)
    torch.manual_seed(random.randrange(2**32))  # as if other work had come before
    runtime = {
        "micro_batch_size": micro_batch_size,
        "devices": devices,
        "checkpoint_every_steps": every,
    }
    changes = PARAMS | changes
    done = train_tiny(root, model=model, logger=logger, runtime=runtime, **changes)
    shutil.rmtree(root / ".toygpt", ignore_errors=True)
    weights = [weight.detach().numpy().tobytes() for weight in model.parameters()]
    return Result(done.outcome, weights, done.curves.state_dict())


def stopped(root: Path, *, stop_at: int, **options: Any) -> None:
    """Train until a signal comes at a step."""
    with pytest.raises(Stopped, match=f"SIGTERM after step {stop_at}") as ended:
        resumed(root, logger=StopAt(stop_at), **options)
    assert ended.value.code == 143


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """The result of each variant without an interruption."""
    root = tmp_path_factory.mktemp("uninterrupted")
    return {name: resumed(root, **changes) for name, changes in VARIANTS.items()}


def test_the_variants_differ(uninterrupted: dict[str, Result]) -> None:
    """Or they would all test the same."""
    assert len({tuple(result.weights) for result in uninterrupted.values()}) == (
        len(VARIANTS) - 1  # when it is validated decides no weight
    )


@pytest.mark.parametrize(
    ("stops", "every"),
    [(range(1, STEPS + 1), None), ((3, 6, 9), 2), ((2, 4, 10), 1)],
    ids=["after each step", "in three parts", "at validations"],
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_stopped_again_and_again_comes_to_the_same_end(
    tmp_path: Path,
    uninterrupted: dict[str, Result],
    variant: str,
    stops: Iterable[int],
    every: int | None,
) -> None:
    for step in stops:
        stopped(tmp_path, stop_at=step, every=every, **VARIANTS[variant])

    assert resumed(tmp_path, **VARIANTS[variant]) == uninterrupted[variant]


def test_points_far_apart_are_means_of_steps_before_and_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "POINTS_PER_CURVE", 2)  # after steps 5 and 10
    expected = resumed(tmp_path)

    with (
        pytest.raises(Stopped, match="after step 3"),
        before_call(TrainingBatches, "sequences", 3, lambda: signal.raise_signal(15)),
    ):
        resumed(tmp_path)
    result = resumed(tmp_path)

    assert [row["step"] for row in result.curves["train"]] == [5, 10]
    assert result == expected


@pytest.mark.parametrize(
    ("before", "after", "num_parts"), [(64, 3, 4), (3, 64, 1), (2, 1, 8)]
)
@pytest.mark.parametrize("stop_at", [3, 4, 10])
def test_a_training_resumes_with_other_micro_batches_and_the_same_batches(
    tmp_path: Path,
    uninterrupted: dict[str, Result],
    before: int,
    after: int,
    num_parts: int,
    stop_at: int,
) -> None:
    """After it has run out of memory, its user lowers runtime.micro_batch_size."""
    stopped(tmp_path, stop_at=stop_at, optimizer="adamw", micro_batch_size=before)
    batch = TrainingBatches.sequences

    with patch.object(
        TrainingBatches, "sequences", autospec=True, side_effect=batch
    ) as it:
        result = resumed(tmp_path, optimizer="adamw", micro_batch_size=after)

    steps = [step for step in range(stop_at, STEPS) for _ in range(num_parts)]
    assert [call.args[1] for call in it.call_args_list] == steps
    for curve, rows in uninterrupted["adamw"].curves.items():
        for row, same in zip(result.curves[curve], rows, strict=True):
            assert row == pytest.approx(same, rel=1e-3)


def test_steps_before_the_checkpoint_are_not_logged_again(tmp_path: Path) -> None:
    stopped(tmp_path, stop_at=4)
    logger = StopAt(None)

    resumed(tmp_path, logger=logger)

    assert logger.logged == {5, 6, 7, 8, 9, 10}


def on_two_devices(folder: str) -> None:
    """Train on two devices, stopped by a signal to the other rank alone."""
    resumed(
        Path(folder),
        logger=StopAt(4, devices=2),
        devices=2,
        micro_batch_size=4,
        optimizer="muon",
    )


def test_two_devices_stop_together_and_one_resumes(tmp_path: Path) -> None:
    """With the weights of one device, which accumulates two micro-batches.

    Rank zero's exit code is 143; Lightning would kill it for the other's. That two
    devices resume together, tests/training/test_sharding.py shows.
    """
    ended = subprocess.run(
        [sys.executable, "-m", __name__, str(tmp_path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert ended.returncode == 143, ended.stderr
    kept = {path.name for path in tmp_path.glob(".toygpt/*/*/*.ckpt")}
    assert kept == {"step-4.ckpt"}

    after, alone = (
        resumed(folder, micro_batch_size=4, optimizer="muon")
        for folder in (tmp_path, tmp_path / "alone")
    )
    assert after == alone


if __name__ == "__main__":
    on_two_devices(*sys.argv[1:])
