"""The alias goes to the better model, and to no other."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.files import write_files
from tests.tracking.trackers import (
    MODEL_FILES,
    logged_models,
    mlflow_client,
    mlflow_runs,
    run_in,
    tracked_by,
)
from toygpt.pipeline.errors import InputError
from toygpt.tracking.mlflow_models import mlflow_client as opened_client
from toygpt.tracking.registry import (
    NotBetterError,
    mlflow_errors,
    register,
    run_of_name,
    run_of_weights,
)

TRACKING = tracked_by("mlflow")
SPLIT = "5b" * 32

# Trains and evaluates a model, and returns its run in MLflow.
Train = Callable[..., Any]


@pytest.fixture
def train(root: Path) -> Train:
    directory = root.with_name("model")
    write_files(directory, MODEL_FILES)

    def train(name: str, split: str = SPLIT, **results: float) -> Any:
        metadata = {"test.bin.sha256": split}
        run_id = f"20260101-00000{len(mlflow_runs(root))}-abcdef"
        with run_in(root, TRACKING, run_id=run_id, name=name, metadata=metadata) as run:
            run.log_metrics({f"test_{key}": value for key, value in results.items()})
            run.remember_weights(weights_of(name))
            run.log_directory(directory, name="model")
        return next(it for it in mlflow_runs(root) if it.info.run_name == name)

    return train


def weights_of(name: str) -> str:
    return sha256(name.encode()).hexdigest()


def champion(root: Path) -> str:
    version = mlflow_client(root).get_model_version_by_alias("toygpt", "champion")
    return str(version.version)


def register_in(root: Path, run: Any, name: str = "toygpt", **options: Any) -> Any:
    with opened_client(TRACKING, root) as client:
        return register(client, run, name, **{"alias": None, "metric": None} | options)


def contest(root: Path, run: Any, metric: str = "test_loss") -> Any:
    return register_in(root, run, alias="champion", metric=metric)


def test_a_model_is_registered_once(root: Path, train: Train) -> None:
    client, run = mlflow_client(root), train("first")

    first = register_in(root, run)
    again = register_in(root, run, alias="best")

    (version,) = client.search_model_versions("name = 'toygpt'")
    (model,) = logged_models(root)
    assert (version.run_id, version.source) == (run.info.run_id, model.model_uri)
    assert version.description == "None on None"
    assert model.tags["mlflow.modelVersions"] == '[{"name": "toygpt", "version": 1}]'
    assert first == ["toygpt version 1 is the model of first"]
    assert again == [
        "toygpt version 1 was already the model of first",
        "models:/toygpt@best is version 1",
    ]


def test_the_alias_goes_to_the_better_model(root: Path, train: Train) -> None:
    contest(root, train("first", loss=2.5))
    lines = contest(root, train("second", loss=2.25))

    assert champion(root) == "2"
    assert lines[-1] == (
        "models:/toygpt@champion is version 2: test_loss 2.25, and 2.5 of version 1"
    )
    contest(root, mlflow_runs(root)[0])  # the champion's own run, once more
    assert champion(root) == "2"


def test_of_an_accuracy_the_higher_one_is_better(root: Path, train: Train) -> None:
    contest(root, train("first", accuracy=0.5), "test_accuracy")
    contest(root, train("second", accuracy=0.75), "test_accuracy")
    with pytest.raises(NotBetterError):
        contest(root, train("third", accuracy=0.25), "test_accuracy")

    assert champion(root) == "2"


@pytest.mark.parametrize("loss", [2.5, 2.75])
def test_a_model_that_is_not_better_is_a_version_without_the_alias(
    root: Path, train: Train, loss: float
) -> None:
    contest(root, train("first", loss=2.5))

    with pytest.raises(NotBetterError) as error:
        contest(root, train("second", loss=loss))

    assert str(error.value) == (
        f"version 2 is not champion: test_loss {loss}, and 2.5 of version 1"
    )
    assert champion(root) == "1"


@pytest.mark.parametrize("split", ["6c" * 32, ""])
def test_values_of_two_test_splits_are_not_compared(
    root: Path, train: Train, split: str
) -> None:
    contest(root, train("first", loss=2.5))

    with pytest.raises(NotBetterError) as error:
        contest(root, train("second", split, loss=0.5))

    assert (split[:36] or "unknown") in str(error.value)
    assert SPLIT[:36] in str(error.value)
    assert champion(root) == "1"
    assert len(mlflow_client(root).search_model_versions("name = 'toygpt'")) == 1


@pytest.mark.parametrize(
    ("name", "alias", "metric", "named"),
    [
        ("toy/gpt", None, None, "toy/gpt"),
        ("toy/gpt", "champion", None, "toy/gpt"),
        ("", None, None, "name"),
        ("toygpt", "a b", None, "a b"),
        ("toygpt", "latest", None, "latest"),
        ("toygpt", "v1", None, "v1"),
        ("toygpt", "champion", "test_los", "no metric test_los, only: test_loss"),
    ],
)
def test_what_mlflow_refuses_leaves_nothing_behind(
    root: Path,
    train: Train,
    name: str,
    alias: str | None,
    metric: str | None,
    named: str,
) -> None:
    run, client = train("first", loss=2.5), mlflow_client(root)

    with pytest.raises(InputError) as error, mlflow_errors():
        register_in(root, run, name, alias=alias, metric=metric)

    assert named in str(error.value)
    assert "\n" not in str(error.value)
    assert client.search_registered_models() == []


def test_a_run_without_a_model_is_refused(root: Path) -> None:
    with run_in(root, TRACKING):
        pass
    (run,) = mlflow_runs(root)

    with pytest.raises(InputError, match="nano-python has no model that MLflow can"):
        register_in(root, run)

    assert mlflow_client(root).search_registered_models() == []


def test_a_run_is_found_by_its_names(root: Path, train: Train) -> None:
    run, other = train("it's first"), train("twice")
    client = mlflow_client(root)

    assert run_of_name(client, "toy", run.info.run_name).info == run.info
    assert run_of_name(client, "toy", run.info.run_id).info == run.info
    assert run_of_name(client, "toy", "20260101-000001-abcdef").info == other.info
    assert run_of_weights(client, "toy", weights_of("twice")).info == other.info


def test_a_run_that_cannot_be_meant_is_refused(root: Path, train: Train) -> None:
    client = mlflow_client(root)
    run = train("twice")
    other = client.create_run(client.create_experiment("others")).info.run_id
    for name, project, named in (
        ("missing", "toy", "toy has no run missing"),
        ("f" * 32, "toy", "f" * 32),
        (other, "toy", f"{other} is of MLflow's experiment others, and"),
        (run.info.run_id, "nothing", "no experiment nothing"),
    ):
        with pytest.raises(InputError, match=named), mlflow_errors():
            run_of_name(client, project, name)
    with pytest.raises(InputError, match="has no run of the model"):
        run_of_weights(client, "toy", "ab" * 32)

    train("twice")
    with pytest.raises(InputError, match="2 runs are called twice; name an id: "):
        run_of_name(client, "toy", "twice")
    client.delete_run(run.info.run_id)
    with pytest.raises(InputError, match="was deleted"):
        run_of_name(client, "toy", run.info.run_id)
