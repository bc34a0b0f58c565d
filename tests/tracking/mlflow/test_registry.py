"""The alias goes to the better model, and to no other."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.tracking.mlflow.server import PAGE, Proxy, Server
from tests.tracking.trackers import (
    WEIGHTS,
    log_model_of,
    mlflow_client,
    mlflow_runs,
    new_record,
    tracked_by,
)
from toygpt.pipeline.errors import InputError
from toygpt.tracking.mlflow.client import mlflow_client as opened_client
from toygpt.tracking.mlflow.client import model_from_mlflow
from toygpt.tracking.mlflow.registry import (
    NotBetterError,
    register,
    run_of_name,
    run_of_weights,
)

TRACKING = tracked_by("mlflow")
SPLIT, OTHER_SPLIT = "5b" * 32, "6c" * 32
# Each run's name, test split and results.
RUNS: list[tuple[str, str, dict[str, float]]] = [
    ("first", SPLIT, {"test_loss": 2.5, "test_accuracy": 0.5}),
    ("second", SPLIT, {"test_loss": 2.25, "test_accuracy": 0.75}),
    ("as good", SPLIT, {"test_loss": 2.5}),
    ("it's worse", SPLIT, {"test_loss": 2.75, "test_accuracy": 0.25}),
    ("elsewhere", OTHER_SPLIT, {"test_loss": 0.5}),
    ("unknown", "", {"test_loss": 0.5}),
    ("twice", SPLIT, {}),
    ("twice", SPLIT, {}),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """Return a project of several runs with models."""
    root = tmp_path_factory.mktemp("trained")
    (root / ".toygpt").mkdir()
    shutil.copy(empty_database, root)
    for number, (name, split, results) in enumerate(RUNS):
        metadata = {"test.bin.sha256": split, "weights.sha256": f"{number}" * 64}
        record = new_record(root, f"record-{number}", name=name, metadata=metadata)
        log_model_of(root, record, TRACKING, results)
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    """Return a project for one test: a copy, but for the models' files."""
    shutil.copy(trained / "mlflow.db", tmp_path)
    return tmp_path


def run_called(root: Path, name: str) -> Any:
    return next(run for run in mlflow_runs(root) if run.info.run_name == name)


def champion(root: Path) -> str:
    version = mlflow_client(root).get_model_version_by_alias("toygpt", "champion")
    return str(version.version)


def register_in(root: Path, run: Any, name: str = "toygpt", **options: Any) -> Any:
    with opened_client(TRACKING, root) as client:
        return register(client, run, name, **{"alias": None, "metric": None} | options)


def contest(root: Path, name: str, metric: str = "test_loss") -> Any:
    return register_in(root, run_called(root, name), alias="champion", metric=metric)


def test_a_model_is_registered_once(root: Path) -> None:
    run = run_called(root, "first")

    first = register_in(root, run)
    again = register_in(root, run, alias="best")

    client = mlflow_client(root)
    (version,) = client.search_model_versions("name = 'toygpt'")
    (output,) = run.outputs.model_outputs
    assert version.run_id == run.info.run_id
    assert version.source == f"models:/{output.model_id}"
    assert version.description == run.data.tags["mlflow.note.content"]
    tags = client.get_logged_model(output.model_id).tags
    assert json.loads(tags["mlflow.modelVersions"]) == [
        {"name": "toygpt", "version": version.version}
    ]
    assert first == ["toygpt version 1 is the model of first"]
    assert again == [
        "toygpt version 1 was already the model of first",
        "models:/toygpt@best is version 1",
    ]


def test_the_alias_goes_to_the_better_model(root: Path) -> None:
    contest(root, "first")
    lines = contest(root, "second")

    assert champion(root) == "2"
    assert lines[-1] == (
        "models:/toygpt@champion is version 2: test_loss 2.25, and 2.5 of version 1"
    )
    contest(root, "second")  # the champion itself, once more
    assert champion(root) == "2"


def test_of_an_accuracy_the_higher_one_is_better(root: Path) -> None:
    contest(root, "first", "test_accuracy")
    contest(root, "second", "test_accuracy")
    with pytest.raises(NotBetterError):
        contest(root, "it's worse", "test_accuracy")

    assert champion(root) == "2"


@pytest.mark.parametrize(("name", "loss"), [("as good", 2.5), ("it's worse", 2.75)])
def test_a_model_that_is_not_better_is_a_version_without_the_alias(
    root: Path, name: str, loss: float
) -> None:
    contest(root, "first")

    with pytest.raises(NotBetterError) as error:
        contest(root, name)

    assert str(error.value) == (
        f"version 2 is not champion: test_loss {loss}, and 2.5 of version 1"
    )
    assert champion(root) == "1"


@pytest.mark.parametrize(
    ("name", "digest"), [("elsewhere", OTHER_SPLIT[:36]), ("unknown", "unknown")]
)
def test_values_of_two_test_splits_are_not_compared(
    root: Path, name: str, digest: str
) -> None:
    contest(root, "first")

    with pytest.raises(NotBetterError) as error:
        contest(root, name)

    assert str(error.value) == (
        f"test_loss of two test splits cannot be compared: {digest}, and "
        f"{SPLIT[:36]} of version 1"
    )
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
        ("toygpt", "champion", "test_los", "no metric test_los, only: test_accuracy"),
    ],
)
def test_what_mlflow_refuses_leaves_nothing_behind(
    root: Path, name: str, alias: str | None, metric: str | None, named: str
) -> None:
    run = run_called(root, "first")

    with pytest.raises(InputError) as error:
        register_in(root, run, name, alias=alias, metric=metric)

    assert named in str(error.value)
    assert "\n" not in str(error.value)
    assert mlflow_client(root).search_registered_models() == []


def test_a_version_that_is_not_of_a_run_has_nothing_to_compare(root: Path) -> None:
    client = mlflow_client(root)
    client.create_registered_model("toygpt")
    client.create_model_version("toygpt", (root / "elsewhere").as_uri())
    client.set_registered_model_alias("toygpt", "champion", "1")

    with pytest.raises(InputError, match="version 1 is not the model of a run"):
        contest(root, "first")


def test_a_run_without_a_model_is_refused(root: Path) -> None:
    run, client = run_called(root, "first"), mlflow_client(root)
    client.delete_logged_model(run.outputs.model_outputs[0].model_id)

    with pytest.raises(InputError, match="first has no model that MLflow can load"):
        register_in(root, run)

    assert client.search_registered_models() == []


def test_a_run_is_found_by_its_names_and_its_weights(root: Path) -> None:
    client, run = mlflow_client(root), run_called(root, "it's worse")

    assert run_of_name(client, "toy", "it's worse").info == run.info
    assert run_of_name(client, "toy", run.info.run_id).info == run.info
    assert run_of_name(client, "toy", "record-3").info == run.info
    assert run_of_weights(client, "toy", "3" * 64).info == run.info


def test_a_model_is_found_in_any_experiment_but_in_the_projects_own_first(
    root: Path,
) -> None:
    client, run = mlflow_client(root), run_called(root, "first")
    tags = {"toygpt.weights.sha256": "0" * 64}
    experiment = client.create_experiment("others")
    later = client.create_run(experiment, tags=tags)

    assert run_of_weights(client, "toy", "0" * 64).info == run.info
    for project in ("others", "not there"):
        found = run_of_weights(client, project, "0" * 64)
        assert found.info.run_id == later.info.run_id


def test_a_run_that_cannot_be_meant_is_refused(root: Path) -> None:
    client, run = mlflow_client(root), run_called(root, "first")
    other = client.create_run(client.create_experiment("others")).info.run_id
    client.delete_run(run.info.run_id)

    for name, project, named in (
        ("missing", "toy", "toy has no run missing"),
        ("f" * 32, "toy", "f" * 32),
        ("twice", "toy", "2 runs are called twice; name an id: "),
        (other, "toy", f"{other} is of MLflow's experiment others, not of toy"),
        (run.info.run_id, "toy", "was deleted in MLflow"),
        (run.info.run_id, "nothing", "no experiment nothing"),
    ):
        with (
            pytest.raises(InputError, match=named),
            opened_client(TRACKING, root) as opened,
        ):
            run_of_name(opened, project, name)
    with pytest.raises(InputError, match="has no run of the model in this project"):
        run_of_weights(client, "toy", "ab" * 32)


def damage(database: Path) -> None:
    database.write_bytes(b"no database" * 500)


def make_outdated(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'old'")


@pytest.mark.parametrize(
    ("fault", "message"),
    [(damage, r"mlflow\.db is damaged"), (make_outdated, "out-of-date database")],
)
def test_a_database_that_does_not_open_is_named_at_once(
    root: Path, fault: Callable[[Path], None], message: str
) -> None:
    fault(root / "mlflow.db")

    with (
        pytest.raises(InputError, match=f"MLflow's database: .*{message}"),
        opened_client(TRACKING, root),
    ):
        pytest.fail("it was opened")
    with (
        pytest.raises(InputError, match=message),
        model_from_mlflow("models:/toygpt/1", tracking=TRACKING, root=root),
    ):
        pytest.fail("there was a model")


def test_a_server_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    proxy = Proxy(Server(f"http://127.0.0.1:{free_port()}", tmp_path))
    proxy.answer = (200, PAGE)
    tracking = tracked_by("mlflow", mlflow=proxy.address)

    def message() -> str:
        with (
            pytest.raises(InputError) as error,
            opened_client(tracking, tmp_path) as client,
        ):
            run_of_weights(client, "toy", WEIGHTS)
        return str(error.value)

    assert message().startswith(f"MLflow at {proxy.address}: API request to ")
    proxy.start()
    try:
        assert message() == (
            f"MLflow at {proxy.address}: {proxy.address} does not answer as a server "
            f"of MLflow"
        )
    finally:
        proxy.stop()
