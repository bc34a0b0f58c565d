"""MLflow's files are in the project, wherever the project is."""

import shutil
import sqlite3
from collections import OrderedDict
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking._tracking_service import utils as mlflow_utils

from tests.files import write_files
from tests.tracking.trackers import (
    RUN_ID,
    Warned,
    mlflow_client,
    mlflow_files,
    mlflow_runs,
    record_in,
    run_in,
    tracked_by,
)
from toygpt.tracking.mlflow.client import model_from_mlflow
from toygpt.tracking.mlflow.locations import (
    LOCATION_COLUMNS,
    correct_locations,
    foreign_locations,
)
from toygpt.tracking.sync import bring_up_to_date

TRACKING = tracked_by("mlflow")


@pytest.fixture
def project(root: Path) -> Path:
    """Return a project with a run whose model MLflow keeps."""
    train(root)
    return root


def train(root: Path, run_id: str = RUN_ID, *, text: str = "{}") -> Any:
    """Log a model as a training does, and return MLflow's run."""
    model = root / "models" / run_id
    write_files(model, {"config.json": text})
    with run_in(root, TRACKING, run_id=run_id, name=run_id) as run:
        run.log_directory(model, name="model")
    (found,) = [run for run in mlflow_runs(root) if run.info.run_name == run_id]
    return found


def locations(root: Path) -> set[str]:
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        selects = (
            f"SELECT {column} FROM {table}" for table, column in LOCATION_COLUMNS
        )
        rows = connection.execute(" UNION ".join(selects))
        return {location for (location,) in rows if location}


def model_of(root: Path, address: str) -> str:
    """Return the text of a model of MLflow's, from a copy that goes with the block."""
    with model_from_mlflow(address, tracking=TRACKING, root=root) as directory:
        assert directory.is_relative_to(root / ".toygpt" / "tmp")
        text = (directory / "config.json").read_text()
    assert not directory.exists()
    return text


def test_after_a_move_old_models_are_found_and_new_files_are_here(
    project: Path, tmp_path: Path
) -> None:
    (old,) = mlflow_runs(project)
    client = mlflow_client(project)
    client.create_registered_model("toy")
    source = f"{old.info.artifact_uri}/model"
    client.create_model_version("toy", source=source, run_id=old.info.run_id)
    chosen = {"s3://bucket/mlartifacts/s3", (tmp_path / "store" / "mine").as_uri()}
    for location in chosen:
        client.create_experiment(Path(location).name, location)
    moved = project.rename(tmp_path / "moved")

    for address in (f"runs:/{old.info.run_id}/model", "models:/toy/1"):
        assert model_of(moved, address) == "{}", "before anything was trained"
    new = train(moved, "2", text="[]")

    assert mlflow_files(moved, new) == {"model/config.json": "[]"}
    assert not project.exists()
    elsewhere = {
        uri for uri in locations(moved) if not uri.startswith(f"{moved.as_uri()}/")
    }
    assert elsewhere == chosen, "locations that the user chose stay"
    (shown,) = mlflow_client(moved).list_artifacts(old.info.run_id, "model")
    assert shown.path == "model/config.json"


def test_a_copy_and_its_original_each_keep_their_own(
    project: Path, tmp_path: Path
) -> None:
    (old,) = mlflow_runs(project)
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    before = locations(project)

    new = train(copy, "2")
    in_copy = next((copy / "mlartifacts").rglob(f"{old.info.run_id}/**/config.json"))
    in_copy.write_text("of the copy")

    assert mlflow_files(copy, new) == {"model/config.json": "{}"}
    assert model_of(copy, f"runs:/{old.info.run_id}/model") == "of the copy"
    assert model_of(project, f"runs:/{old.info.run_id}/model") == "{}"
    assert locations(project) == before
    assert new.info.run_id not in str(list((project / "mlartifacts").rglob("*")))


@pytest.fixture
def copy(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the project without the files that MLflow keeps."""
    # As in another process: MLflow remembers where it put the files of a run.
    monkeypatch.setattr(mlflow_utils, "_artifact_repos_cache", OrderedDict())
    ignored = shutil.ignore_patterns("mlartifacts")
    return Path(shutil.copytree(project, tmp_path / "copy", ignore=ignored))


def test_files_that_exist_at_the_old_place_alone_are_found_there_and_can_be_copied(
    project: Path, copy: Path
) -> None:
    (old,) = mlflow_runs(project)
    address = f"runs:/{old.info.run_id}/model"

    train(copy, "2")

    assert model_of(copy, address) == "{}"
    assert not mlflow_files(copy, old)

    correct_locations(copy, foreign_locations(copy), copying=True)

    assert foreign_locations(copy) == []
    assert mlflow_files(copy, old) == mlflow_files(project, old)
    shutil.rmtree(project)
    assert model_of(copy, address) == "{}"


def test_files_of_a_run_are_copied_from_elsewhere_when_it_gets_more(
    project: Path, copy: Path
) -> None:
    (old,) = mlflow_runs(project)

    with run_in(copy, TRACKING) as run:
        run.log_directory(copy / "models", name="samples")

    assert mlflow_files(copy, old) == {
        "model/config.json": "{}",
        f"samples/{RUN_ID}/config.json": "{}",
    }
    assert mlflow_files(project, old) == {"model/config.json": "{}"}


@pytest.mark.parametrize("name", ["a%20b", "a%2Fb", "what?", """# '"&=;:@[]+\\%ß"""])
def test_a_folder_may_have_any_name(
    root: Path, tmp_path: Path, warned: Warned, name: str
) -> None:
    """The neighbours have the names that the folder's would be decoded, or cut, to."""
    root = root.rename(tmp_path / name)
    for neighbour in ("a b", "a", "what", "a%2520b"):
        (tmp_path / neighbour).mkdir()

    run = train(root)

    assert model_of(root, f"runs:/{run.info.run_id}/model") == "{}"
    assert mlflow_files(root, run) == {"model/config.json": "{}"}
    elsewhere = [it for it in tmp_path.rglob("*") if not it.is_relative_to(root)]
    assert len(elsewhere) == 4, "the neighbours, which are empty"
    assert warned() == []


@pytest.mark.parametrize(
    "damage",
    ["lifecycle_stage = 'deleted'", "artifact_location = 'mlflow-artifacts:/1'"],
)
def test_runs_of_an_unusable_experiment_are_left_alone_once_another_is_chosen(
    project: Path, warned: Warned, damage: str
) -> None:
    for run_id, name in (("1", "toy"), ("2", "another")):
        with run_in(project, tracked_by(project=name), run_id=run_id):
            pass
        record_in(project, run_id).update(trackers=["mlflow"])
    with sqlite3.connect(project / "mlflow.db") as connection:
        connection.execute(f"UPDATE experiments SET {damage} WHERE name = 'toy'")

    synced = bring_up_to_date(tracked_by("mlflow", project="another"), project)

    assert warned() == []
    assert not record_in(project, "1").info.synced["mlflow"].is_wanted
    assert len(synced) == 1
    assert len(mlflow_runs(project, "another")) == 1
