"""A run names the splits that it learned from and was evaluated on."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.trackers import (
    mlflow_client,
    mlflow_runs,
    record_in,
    run_in,
    tracked_by,
)
from toygpt.tracking.sync import bring_up_to_date

TRACKING = tracked_by("mlflow")
PYTHON = {"corpus": "python", "corpora.python.source": "standard_library"}
METADATA = {f"{split}.bin.sha256": split[0] * 64 for split in ("train", "validation")}
METADATA |= {"test.bin.sha256": "e" * 64, "corpus.sha256": "c" * 64}


def datasets(root: Path) -> dict[str, Any]:
    """Return the inputs of the run by their context."""
    (run,) = mlflow_runs(root)
    inputs = run.inputs.dataset_inputs
    return {
        {tag.key: tag.value for tag in it.tags}["mlflow.data.context"]: it
        for it in inputs
    }


def test_each_split_is_a_dataset_by_which_runs_are_found(root: Path) -> None:
    with run_in(root, TRACKING, params=PYTHON, metadata=METADATA):
        pass

    found = datasets(root)
    assert set(found) == {"training", "validation", "test"}
    test = found["test"]
    assert (test.dataset.name, test.dataset.digest) == ("python-test", "e" * 36)
    assert {tag.key: tag.value for tag in test.tags}["sha256"] == "e" * 64
    assert test.dataset.source_type == "standard_library"
    client, experiment = mlflow_client(root), mlflow_runs(root)[0].info.experiment_id
    for condition, number in (("python-test", 1), ("python-tests", 0)):
        runs = client.search_runs([experiment], f"dataset.name = '{condition}'")
        assert len(runs) == number
    (run,) = client.search_runs([experiment], f"dataset.digest = '{'t' * 36}'")
    assert run.info.run_name == "nano-python"


def test_a_second_sync_adds_no_second_dataset(root: Path) -> None:
    with run_in(root, TRACKING, params=PYTHON, metadata=METADATA):
        pass
    with record_in(root).locked():
        record_in(root).append({"test_loss": 1.0}, step=None)

    assert bring_up_to_date(TRACKING, root) == ["nano-python"]

    (run,) = mlflow_runs(root)
    assert len(run.inputs.dataset_inputs) == 3


def test_a_record_without_digests_has_no_datasets(root: Path) -> None:
    with run_in(root, TRACKING, params=PYTHON, metadata={"device": "abacus"}):
        pass

    assert datasets(root) == {}


@pytest.mark.parametrize(
    ("repositories", "source_type"),
    [(["wiki/source"], "hugging_face"), (["wiki/source", "red/pajama"], "hub")],
)
def test_a_corpus_of_the_hub_is_linked_if_it_is_one_dataset(
    root: Path, repositories: list[str], source_type: str
) -> None:
    params = {"corpus": "books", "corpora.books.source": "hub"}
    params |= {f"hub.{number}.repository": it for number, it in enumerate(repositories)}

    with run_in(root, TRACKING, params=params, metadata=METADATA):
        pass

    dataset = datasets(root)["training"].dataset
    assert dataset.source_type == source_type
    source = json.loads(dataset.source)
    assert source["0.repository"] == "wiki/source"
    assert source.get("path") == ("wiki/source" if len(repositories) == 1 else None)
