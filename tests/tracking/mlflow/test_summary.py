"""Runs differ in their descriptions, and the user's own words stay."""

from pathlib import Path

import pytest

from tests.tracking.trackers import (
    mlflow_client,
    mlflow_runs,
    new_record,
    record_in,
    run_in,
    tracked_by,
)
from toygpt.tracking.mlflow.summary import NOTE, describe
from toygpt.tracking.mlflow.tracker import MLflowTracker
from toygpt.tracking.sync import bring_up_to_date

TRACKING = tracked_by("mlflow", tags={"steps": "by hand"})
PARAMS = {"model": "nano", "corpus": "python"}


def evaluate(root: Path, bits_per_byte: float, **others: float) -> None:
    results = {"test_bits_per_byte": bits_per_byte, **others}
    with record_in(root).locked():
        record_in(root).append(results, step=None)
    bring_up_to_date(TRACKING, root)


def note(root: Path) -> str:
    return str(mlflow_runs(root)[0].data.tags[NOTE])


def test_constants_are_tags_beside_the_users_own_and_no_curves(root: Path) -> None:
    with run_in(root, TRACKING) as run:
        run.log_metrics({"steps": 3.0}, step=1)  # a curve of that name
        run.log_metrics({"parameters": 123.0, "steps": 10.0})
        run.log_metrics({"xz_bits_per_byte": 2.345678901234567, "test_loss": 2.0})

    (found,) = mlflow_runs(root)
    assert set(found.data.metrics) == {"steps", "test_loss"}
    assert found.data.metrics["steps"] == 3.0
    tags = found.data.tags
    assert (tags["toygpt.parameters"], tags["toygpt.steps"]) == ("123", "10")
    assert tags["toygpt.xz_bits_per_byte"] == "2.345678901234567"
    assert tags["steps"] == "by hand"
    assert record_in(root).unsynced(["mlflow"]) == []


def test_a_constant_that_changed_is_synced_again_and_an_old_one_is_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_in(root, TRACKING) as run:
        run.log_metrics({"bigram_bits_per_byte": 3.5})
    with record_in(root).locked():
        record_in(root).append({"bigram_bits_per_byte": 3.25}, step=None)

    bring_up_to_date(TRACKING, root)

    assert mlflow_runs(root)[0].data.tags["toygpt.bigram_bits_per_byte"] == "3.25"
    assert bring_up_to_date(TRACKING, root) == []


def test_a_constant_that_a_person_has_changed_to_a_text_is_set_again(
    root: Path,
) -> None:
    with run_in(root, TRACKING) as run:
        run.log_metrics({"steps": 10.0})
    (found,) = mlflow_runs(root)
    mlflow_client(root).set_tag(found.info.run_id, "toygpt.steps", "about 10")

    evaluate(root, 1.5)

    (found,) = mlflow_runs(root)
    assert found.data.tags["toygpt.steps"] == "10"
    assert found.data.metrics["test_bits_per_byte"] == 1.5
    assert record_in(root).unsynced(["mlflow"]) == []


def test_a_description_follows_the_results(root: Path) -> None:
    MLflowTracker(new_record(root, params=PARAMS).info, TRACKING, root).abandon()
    assert note(root) == "nano on python"

    with run_in(root, TRACKING, params=PARAMS) as run:
        run.log_metrics({"validation_loss": 2.5}, step=1)
        run.log_metrics({"validation_loss": 2.25}, step=2)
        run.log_metrics({"parameters": 2103808.0})
    assert note(root) == "nano on python: validation loss 2.250, 2,103,808 parameters"

    evaluate(root, 1.31675)
    assert note(root) == (
        "nano on python: 1.317 bits per byte on the test split, 2,103,808 parameters"
    )
    evaluate(root, 1.25, test_bits_per_byte_standard_error=0.0041)
    assert note(root).startswith("nano on python: 1.250 ± 0.004 bits per byte on the")


def test_a_description_that_a_person_wrote_stays(root: Path) -> None:
    with run_in(root, TRACKING, params=PARAMS):
        pass
    (run,) = mlflow_runs(root)
    mlflow_client(root).set_tag(run.info.run_id, NOTE, "the one for the paper")

    evaluate(root, 1.5)
    evaluate(root, 1.25)

    assert note(root) == "the one for the paper"
    tags = mlflow_runs(root)[0].data.tags
    assert tags["toygpt.description"] == describe(PARAMS, {"test_bits_per_byte": 1.25})
