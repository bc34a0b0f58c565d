"""Training from end to end: what is learned, what is reported, what stops it."""

import csv
import math
import os
import signal
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch import nn

from tests.tiny import (
    BLOCK_SIZE,
    VOCAB_SIZE,
    predictable_text,
    runtime_params,
    tiny_model,
    train_params,
)
from toygpt.data.batches import TrainingBatches
from toygpt.data.token_files import TokenIds
from toygpt.model.gpt import GPT, next_token_loss
from toygpt.pipeline.errors import InputError
from toygpt.training import trainer
from toygpt.training.report import Curves
from toygpt.training.trainer import (
    Outcome,
    Portions,
    accumulation_steps,
    resolve_attention,
    resolve_precision,
    should_compile,
    train,
)

TOKENS_PER_STEP = 8 * BLOCK_SIZE
TRAIN_TEXT = predictable_text(5_000, seed=1)
VALIDATION_TEXT = predictable_text(1_000, seed=2)


class Notes:
    """A listener that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Write it down."""
        self.heard.append((step, dict(metrics)))


class Trained(NamedTuple):
    """A training and what came of it."""

    model: GPT
    outcome: Outcome
    curves: Curves
    notes: Notes


def trained(
    model: GPT | None = None,
    *,
    seed: int = 1,
    text: TokenIds = TRAIN_TEXT,
    micro_batch_size: int = 64,
    **changes: Any,
) -> Trained:
    """Train a model, by default for ten steps."""
    model = model or tiny_model()
    notes = Notes()
    curves = Curves(notes)
    outcome = train(
        model,
        text,
        VALIDATION_TEXT,
        params=train_params(**changes),
        runtime=runtime_params(micro_batch_size=micro_batch_size),
        seed=seed,
        curves=curves,
    )
    return Trained(model, outcome, curves, notes)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file of the report."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def steps_of(rows: list[dict[str, float]]) -> list[float]:
    """Return the steps of a curve's points."""
    return [row["step"] for row in rows]


def test_training_lowers_the_loss() -> None:
    """Each token has two followers, so that ln 2 is the best that can be reached."""
    result = trained(max_tokens=60 * TOKENS_PER_STEP, optimizer="muon")

    assert math.log(2) < result.outcome.validation_loss < 2
    assert result.outcome.train_loss < result.curves.train[0]["loss"] - 1


@pytest.mark.parametrize("micro_batch_size", [1, 3, 4])
def test_gradients_gathered_from_portions_are_those_of_the_whole_batch(
    micro_batch_size: int,
) -> None:
    whole = trained(optimizer="adamw")
    portions = trained(optimizer="adamw", micro_batch_size=micro_batch_size)

    for one, other in zip(whole.curves.train, portions.curves.train, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    for (name, one_weight), other_weight in zip(
        whole.model.named_parameters(), portions.model.parameters(), strict=True
    ):
        if not name.endswith("to_key.bias"):  # of no effect: its gradient is noise
            torch.testing.assert_close(other_weight, one_weight, rtol=0, atol=1e-3)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_same_seed_gives_the_same_weights_to_the_last_bit(optimizer: str) -> None:
    """Also with dropout, whatever was drawn at random before training."""
    results = []
    for number in range(2):
        model = tiny_model(dropout=0.1)
        torch.manual_seed(number)
        results.append(trained(model, optimizer=optimizer, dropout=0.1))

    one, other = results
    assert one.outcome == other.outcome
    assert one.curves.train == other.curves.train
    for weight, same in zip(
        one.model.parameters(), other.model.parameters(), strict=True
    ):
        assert torch.equal(weight, same)


def test_another_seed_gives_other_weights() -> None:
    one, other = trained(seed=1), trained(seed=2)

    assert not torch.equal(
        one.model.token_embedding.weight, other.model.token_embedding.weight
    )


def test_dropout_is_another_in_each_step() -> None:
    """Every batch is the same, and nothing is learned: only dropout moves the loss."""
    result = trained(
        tiny_model(dropout=0.5),
        text=np.zeros(1_000, dtype=np.uint16),
        dropout=0.5,
        optimizer="adamw",
        learning_rate=1e-30,
    )

    losses = [row["train_loss"] for row in result.curves.train]
    assert len(set(losses)) == len(losses)


def test_validation_leaves_training_as_it_is() -> None:
    seldom = trained(validate_every_tokens=10**9)
    often = trained(validate_every_tokens=1)

    assert len(often.curves.validation) > len(seldom.curves.validation)
    assert seldom.curves.train == often.curves.train
    for one, other in zip(
        seldom.model.parameters(), often.model.parameters(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("validate_every_steps", "expected"),
    [
        (5, [5, 10]),
        (4, [5, 10]),
        (3, [4, 8, 10]),
        (10, [10]),
        (100, [10]),
        (0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
@pytest.mark.parametrize("micro_batch_size", [64, 4])
def test_validations_are_even_and_the_last_is_at_the_last_step(
    validate_every_steps: int, expected: list[int], micro_batch_size: int
) -> None:
    result = trained(
        validate_every_tokens=validate_every_steps * TOKENS_PER_STEP + 1,
        micro_batch_size=micro_batch_size,
    )

    assert steps_of(result.curves.validation) == expected
    assert result.outcome.validation_loss == result.curves.validation[-1]["loss"]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_validation_loss_is_that_of_blocks_spread_over_the_split(
    dropout: float,
) -> None:
    """Of 11 blocks in batches of 8, the last three count no more than the others."""
    result = trained(
        tiny_model(dropout=dropout),
        dropout=dropout,
        validation_tokens=11 * BLOCK_SIZE + 3,
    )

    text = torch.from_numpy(VALIDATION_TEXT.astype(np.int64))
    available = (len(text) - 1) // BLOCK_SIZE
    starts = [number * available // 11 * BLOCK_SIZE for number in range(11)]
    inputs = torch.stack([text[start : start + BLOCK_SIZE] for start in starts])
    targets = torch.stack([text[start + 1 :][:BLOCK_SIZE] for start in starts])
    expected = next_token_loss(result.model.eval()(inputs), targets)
    assert result.outcome.validation_loss == pytest.approx(expected.item(), rel=1e-5)


def test_a_part_of_a_step_is_a_step() -> None:
    result = trained(max_tokens=3 * TOKENS_PER_STEP + 1)

    assert (result.outcome.steps, result.outcome.tokens) == (4, 4 * TOKENS_PER_STEP)


def test_a_single_step_is_a_training() -> None:
    result = trained(max_tokens=1)

    assert result.outcome.steps == 1
    assert steps_of(result.curves.train) == [1]
    assert steps_of(result.curves.validation) == [1]


def test_points_of_a_curve_are_means_since_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    each_step = trained(micro_batch_size=4)
    monkeypatch.setattr(trainer, "POINTS_PER_CURVE", 3)

    every_third = trained(micro_batch_size=4)

    losses = [row["train_loss"] for row in each_step.curves.train]
    assert steps_of(each_step.curves.train) == list(range(1, 11))
    assert steps_of(every_third.curves.train) == [3, 6, 9, 10]
    assert [row["train_loss"] for row in every_third.curves.train] == pytest.approx(
        [sum(losses[:3]) / 3, sum(losses[3:6]) / 3, sum(losses[6:9]) / 3, losses[9]]
    )


@pytest.mark.parametrize(
    ("optimizer", "highest"),
    [
        ("muon", {"muon_learning_rate": 0.04, "adamw_learning_rate": 0.004}),
        ("adamw", {"adamw_learning_rate": 0.004}),
    ],
)
def test_curves_tell_the_learning_rates_that_each_step_used(
    optimizer: str, highest: dict[str, float], tmp_path: Path
) -> None:
    """Each under the name of what uses it; without Muon its rate is not zero but none.

    The trackers are not told of it. On disk its column is there, since DVC draws no
    plot if one is missing; it holds no number, since DVC would draw that.
    """
    result = trained(
        optimizer=optimizer,
        learning_rate=0.004,
        muon_learning_rate=0.04,
        warmup_tokens=4 * TOKENS_PER_STEP,
        decay_tokens=5 * TOKENS_PER_STEP,
    )
    result.curves.write(tmp_path)

    multipliers = [0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    heard = [values for _, values in result.notes.heard if "train_loss" in values]
    rows = read_csv(tmp_path / "train.csv")
    for name in ("muon_learning_rate", "adamw_learning_rate"):
        if name in highest:
            expected = pytest.approx([highest[name] * m for m in multipliers])
            assert [values[name] for values in heard] == expected
            assert [float(row[name]) for row in rows] == expected
        else:
            assert not [values for values in heard if name in values]
            assert {row[name] for row in rows} == {"nan"}
        assert "learning_rate" not in rows[0]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_optimizer_uses_the_learning_rate_that_the_curve_shows(
    optimizer: str,
) -> None:
    """Biases of tokens that never come always sink, as fast as the rate allows."""
    result = trained(
        text=np.zeros(1_000, dtype=np.uint16),
        optimizer=optimizer,
        learning_rate=1e-5,
        muon_learning_rate=1e-5,
        warmup_tokens=4 * TOKENS_PER_STEP,
        decay_tokens=5 * TOKENS_PER_STEP,
    )

    way = sum(row["adamw_learning_rate"] for row in result.curves.train)
    biases = result.model.to_logits.bias.tolist()
    assert biases == pytest.approx([way, *[-way] * (VOCAB_SIZE - 1)], rel=1e-2)


def test_the_gradient_s_length_is_told_before_it_is_shortened() -> None:
    """Shortened to a hair, gradients stop moving what plain AdamW would normalise."""
    free = trained(max_tokens=TOKENS_PER_STEP, gradient_clip_norm=1e9)
    shortened = trained(max_tokens=TOKENS_PER_STEP, gradient_clip_norm=1e-12)

    norms = [result.curves.train[0]["gradient_norm"] for result in (free, shortened)]
    assert norms[0] == norms[1] > 0.1
    start = tiny_model().token_embedding.weight
    moved = [
        (result.model.token_embedding.weight - start).abs().max().item()
        for result in (free, shortened)
    ]
    assert moved[0] > 1e-3 > 10 * moved[1]


def test_curves_on_disk_are_dense_and_end_at_the_last_step(tmp_path: Path) -> None:
    """DVC draws an empty cell as zero."""
    result = trained(optimizer="muon", validate_every_tokens=4 * TOKENS_PER_STEP)

    result.curves.write(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"train.csv", "validation.csv"}
    rates = ["muon_learning_rate", "adamw_learning_rate"]
    for name, columns in (
        ("train", ["step", "tokens_seen", "train_loss", *rates, "gradient_norm"]),
        ("validation", ["step", "tokens_seen", "validation_loss"]),
    ):
        rows = read_csv(tmp_path / f"{name}.csv")
        assert list(rows[0]) == columns
        assert all(math.isfinite(float(cell)) for row in rows for cell in row.values())
        assert rows[-1]["step"] == "10"
        for row in rows:
            assert int(row["tokens_seen"]) == int(row["step"]) * TOKENS_PER_STEP
    assert float(rows[-1]["validation_loss"]) == pytest.approx(
        result.outcome.validation_loss, rel=1e-6
    )


def test_the_same_training_writes_the_same_bytes(tmp_path: Path) -> None:
    """No seconds, no dates: `dvc repro --force` finds nothing changed."""
    for name in ("one", "other"):
        trained().curves.write(tmp_path / name)

    for file in ("train.csv", "validation.csv"):
        one, other = ((tmp_path / name / file) for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()


def test_a_listener_hears_of_every_point_with_its_step() -> None:
    result = trained(validate_every_tokens=4 * TOKENS_PER_STEP)

    heard = [
        (step, name, values[name])
        for step, values in result.notes.heard
        for name in ("train_loss", "validation_loss")
        if name in values
    ]
    expected = [
        (row["step"], name, row[name])
        for name, rows in (
            ("train_loss", result.curves.train),
            ("validation_loss", result.curves.validation),
        )
        for row in rows
    ]
    assert sorted(heard) == sorted(expected)
    for step, values in result.notes.heard:
        assert values["tokens_seen"] == step * TOKENS_PER_STEP
        assert "epoch" not in values
    speeds = [
        v["tokens_per_second"] for _, v in result.notes.heard if "train_loss" in v
    ]
    assert all(speed > 0 for speed in speeds)


def test_where_there_is_no_terminal_each_validation_is_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained(validate_every_tokens=3 * TOKENS_PER_STEP)

    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["512", "1,024", "1,280"]
    assert all("validation_loss" in line for line in lines)


def test_training_that_diverges_stops_and_says_what_to_change() -> None:
    with pytest.raises(InputError, match=r"diverged.*train\.learning_rate"):
        trained(learning_rate=1e30)


def test_a_model_that_is_broken_from_the_start_is_not_trained() -> None:
    model = tiny_model()
    nn.init.constant_(model.final_norm.weight, math.inf)

    with pytest.raises(InputError, match=r"loss is (nan|inf) in step 1,"):
        trained(model)


def test_training_that_diverges_in_its_last_step_is_noticed() -> None:
    """The last training loss was still good; the weights are not."""
    with pytest.raises(InputError, match="diverged"):
        trained(learning_rate=1e30, max_tokens=1)


def test_a_machine_without_what_runtime_asks_for_is_told_so() -> None:
    with pytest.raises(InputError, match=r"does not fit `runtime` in params\.yaml"):
        train(
            tiny_model(),
            TRAIN_TEXT,
            VALIDATION_TEXT,
            params=train_params(),
            runtime=runtime_params(accelerator="mps"),
            seed=1,
            curves=Curves(Notes()),
        )


@pytest.fixture
def slurm_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an `srun` into the search path."""
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("slurm_is_installed")
def test_where_slurm_is_installed_nothing_is_said_of_it() -> None:
    """Lightning would advise to run a command that does not work here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        trained(max_tokens=1)


@pytest.mark.usefixtures("slurm_is_installed")
def test_a_slurm_job_of_several_tasks_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `sbatch --ntasks=4` sets it for what its script runs."""
    for name, value in (
        ("JOB_ID", "7"),
        ("JOB_NAME", "train"),
        ("NTASKS", "4"),
        ("NPROCS", "4"),
        ("NNODES", "1"),
        ("PROCID", "0"),
        ("LOCALID", "0"),
        ("NODEID", "0"),
    ):
        monkeypatch.setenv(f"SLURM_{name}", value)

    with pytest.raises(InputError, match="Use `--ntasks-per-node=4` instead") as error:
        trained(max_tokens=1)

    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__


class Interruption:
    """A listener that presses Ctrl+C when the second step is told."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Interrupt."""
        if step == 2:
            raise KeyboardInterrupt


@pytest.fixture
def _signals_are_put_back() -> Iterator[None]:
    """Undo what Lightning does to Ctrl+C when it has met one."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_signals_are_put_back")
def test_an_interrupted_training_does_not_pass_for_a_finished_one() -> None:
    with pytest.raises((KeyboardInterrupt, SystemExit)) as interruption:
        train(
            tiny_model(),
            TRAIN_TEXT,
            VALIDATION_TEXT,
            params=train_params(),
            runtime=runtime_params(),
            seed=1,
            curves=Curves(Interruption()),
        )

    code = getattr(interruption.value, "code", 130)
    assert code not in (None, 0)


@pytest.mark.parametrize(
    ("batch_size", "num_devices", "micro_batch_size", "portions"),
    [
        (16, 1, 64, 1),
        (16, 1, 16, 1),
        (16, 1, 15, 2),
        (16, 4, 4, 1),
        (16, 4, 1, 4),
        (12, 1, 5, 3),  # four at once: five would not share twelve evenly
        (7, 1, 4, 7),
        (1, 1, 1, 1),
    ],
)
def test_a_batch_is_cut_into_as_few_equal_portions_as_fit(
    batch_size: int, num_devices: int, micro_batch_size: int, portions: int
) -> None:
    assert accumulation_steps(batch_size, num_devices, micro_batch_size) == portions


@pytest.mark.parametrize(("batch_size", "num_devices"), [(10, 4), (2, 4), (3, 2)])
def test_devices_that_cannot_share_a_batch_are_refused(
    batch_size: int, num_devices: int
) -> None:
    with pytest.raises(
        InputError,
        match=rf"train\.batch_size \({batch_size}\).*devices \({num_devices};",
    ):
        accumulation_steps(batch_size, num_devices, 64)


@pytest.mark.parametrize(("world_size", "per_step"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_all_devices_and_portions_together_see_each_batch_once(
    world_size: int, per_step: int
) -> None:
    batches = TrainingBatches(TRAIN_TEXT, block_size=BLOCK_SIZE, batch_size=8, seed=1)

    devices = [
        Portions(
            batches, num_steps=3, per_step=per_step, rank=rank, world_size=world_size
        )
        for rank in range(world_size)
    ]
    seen = [list(device) for device in devices]

    assert [len(device) for device in devices] == [3 * per_step] * world_size
    for step in range(3):
        parts = [
            portion
            for device in seen
            for portion in device[step * per_step : (step + 1) * per_step]
        ]
        for whole, pieces in zip(
            batches.batch(step), zip(*parts, strict=True), strict=True
        ):
            assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("accelerator", ["auto", "cpu", "gpu"])
def test_a_precision_that_was_chosen_is_kept(accelerator: str) -> None:
    assert resolve_precision("32-true", accelerator) == "32-true"
    assert resolve_precision("bf16-mixed", accelerator) == "bf16-mixed"


def test_attention_is_by_matrices_where_flash_attention_is_slower() -> None:
    on_a_processor = partial(resolve_attention, accelerator="cpu")

    assert on_a_processor("auto", precision="bf16-mixed") == "from_scratch"
    assert on_a_processor("auto", precision="32-true") == "flash"
    for precision in ("bf16-mixed", "32-true"):
        assert on_a_processor("flash", precision=precision) == "flash"
        assert on_a_processor("from_scratch", precision=precision) == "from_scratch"


def test_attention_on_a_gpu_is_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    assert (
        resolve_attention("auto", precision="bf16-mixed", accelerator="auto") == "flash"
    )


def test_a_model_is_not_compiled_on_a_processor_unless_that_is_asked_for() -> None:
    on_a_processor = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False
    )

    assert not should_compile("auto", on_a_processor)
    assert not should_compile(False, on_a_processor)
    assert should_compile(True, on_a_processor)


def test_half_precision_trains_as_well() -> None:
    full = trained(precision="32-true")
    half = trained(precision="bf16-mixed")

    assert half.model.token_embedding.weight.dtype == torch.float32
    assert half.outcome.train_loss != full.outcome.train_loss
    assert half.outcome.train_loss == pytest.approx(full.outcome.train_loss, rel=0.02)


def test_both_attentions_learn_alike() -> None:
    flash, from_scratch = (
        trained(tiny_model(attention=attention))
        for attention in ("flash", "from_scratch")
    )

    assert flash.outcome.train_loss == pytest.approx(
        from_scratch.outcome.train_loss, rel=1e-3
    )
    assert flash.outcome.train_loss < math.log(VOCAB_SIZE)


def test_too_little_memory_names_the_parameter_that_helps() -> None:
    """A GPU that is full raises this error in the middle of a step."""
    model = tiny_model()
    calls = []

    def run_out_of_memory(*_: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_hook(run_out_of_memory)

    with pytest.raises(InputError, match=r"portions of 2 .*runtime\.micro_batch_size"):
        trained(model, micro_batch_size=2)

    assert len(calls) == 3
