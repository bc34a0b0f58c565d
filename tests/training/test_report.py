"""The curves: their points, their files, and the line at a validation."""

import csv
import math
import sys
from pathlib import Path

import pytest

from tests.training.trained import TOKENS_PER_STEP, trained
from toygpt.training import plan

RATES = ["muon_learning_rate", "adamw_learning_rate"]


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file of the report."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_points_of_a_curve_are_means_since_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    each_step = trained(runtime={"micro_batch_size": 4}).curves.train
    monkeypatch.setattr(plan, "POINTS_PER_CURVE", 3)

    every_third = trained(runtime={"micro_batch_size": 4}).curves.train

    losses = [row["train_loss"] for row in each_step]
    assert [row["step"] for row in each_step] == list(range(1, 11))
    assert [row["step"] for row in every_third] == [3, 6, 9, 10]
    assert [row["train_loss"] for row in every_third] == pytest.approx(
        [sum(losses[:3]) / 3, sum(losses[3:6]) / 3, sum(losses[6:9]) / 3, losses[9]]
    )


@pytest.mark.parametrize(
    ("optimizer", "highest"),
    [
        ("muon", {"muon_learning_rate": 0.04, "adamw_learning_rate": 0.004}),
        ("adamw", {"adamw_learning_rate": 0.004}),
    ],
)
def test_curves_have_the_learning_rates_that_each_step_used(
    optimizer: str, highest: dict[str, float], tmp_path: Path
) -> None:
    """Without Muon, the trackers get no rate for it; its column is there, but is NaN.

    DVC draws no plot where a column is missing, and would draw any number.
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
    logged = [values for _, values in result.points if "train_loss" in values]
    rows = read_csv(tmp_path / "train.csv")
    for name in RATES:
        if name in highest:
            expected = pytest.approx([highest[name] * m for m in multipliers])
            assert [values[name] for values in logged] == expected
            assert [float(row[name]) for row in rows] == expected
        else:
            assert not [values for values in logged if name in values]
            assert {row[name] for row in rows} == {"nan"}


def test_curves_on_disk_are_dense_and_end_at_the_last_step(tmp_path: Path) -> None:
    """DVC draws an empty cell as zero."""
    result = trained(optimizer="muon", validate_every_tokens=4 * TOKENS_PER_STEP)

    result.curves.write(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"train.csv", "validation.csv"}
    for name, columns in (
        ("train", ["step", "tokens_seen", "train_loss", *RATES, "gradient_norm"]),
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


def test_a_logger_gets_every_point_at_once() -> None:
    result = trained(validate_every_tokens=4 * TOKENS_PER_STEP)

    for name, rows in (
        ("train_loss", result.curves.train),
        ("validation_loss", result.curves.validation),
    ):
        assert [(step, p[name]) for step, p in result.points if name in p] == [
            (row["step"], row[name]) for row in rows
        ]
    for step, point in result.points:
        assert point["tokens_seen"] == step * TOKENS_PER_STEP
        assert ("train_loss" in point) == (point.get("tokens_per_second", 0) > 0)


def test_where_there_is_no_terminal_each_validation_prints_the_newest_losses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps 4, 8 and 10 are validated; the curve has its points at 3, 6, 9 and 10."""
    losses = [row["train_loss"] for row in trained().curves.train]
    capsys.readouterr()
    monkeypatch.setattr(plan, "POINTS_PER_CURVE", 3)

    result = trained(validate_every_tokens=3 * TOKENS_PER_STEP)

    newest = [losses[3], (losses[6] + losses[7]) / 2, losses[9]]
    assert capsys.readouterr().out.splitlines() == [
        f"{row['tokens_seen']:,} tokens: train_loss {loss:.3f}, "
        f"validation_loss {row['validation_loss']:.3f}"
        for loss, row in zip(newest, result.curves.validation, strict=True)
    ]
    assert [row["step"] for row in result.curves.train] == [3, 6, 9, 10]
    assert result.outcome.train_loss == result.curves.train[-1]["train_loss"]


def test_on_a_terminal_a_bar_shows_the_losses_and_nothing_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    outcome = trained().outcome

    shown = capsys.readouterr()
    assert shown.out == ""
    assert "1.28k/1.28k" in shown.err
    assert (
        f"train_loss={outcome.train_loss:.3f}, "
        f"validation_loss={outcome.validation_loss:.3f}" in shown.err
    )
