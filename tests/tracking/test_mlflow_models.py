"""A model that MLflow keeps is copied for as long as it is needed."""

from pathlib import Path
from typing import Any

import pytest

from tests.tracking.trackers import (
    files_in,
    mlflow_client,
    mlflow_runs,
    run_in,
    tracked_by,
)
from toygpt.pipeline.errors import InputError
from toygpt.tracking.mlflow_models import model_from_mlflow

FILES = {"config.json": "{}", "deep/file": "text"}


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Any:
    """Return a run whose model MLflow keeps, as the stage train leaves it."""
    for name, text in FILES.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with run_in(root, tracked_by("mlflow")) as run:
        run.log_directory(tmp_path / "model", name="model")
    (found,) = mlflow_runs(root)
    return found


@pytest.fixture
def temporary(root: Path) -> Path:
    """Return the folder for copies of models, with one that a killed process left."""
    folder = root / ".toygpt" / "tmp"
    (folder / ".toygpt.1.tmp" / "model").mkdir(parents=True)
    return folder


def test_a_kept_model_is_there_for_as_long_as_it_is_needed(
    root: Path, run: Any, temporary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = Path(run.info.artifact_uri.removeprefix("file://")) / "model"

    with (
        pytest.raises(ValueError, match="its use failed"),
        model_from_mlflow(f"runs:/{run.info.run_id}/model", root=root) as directory,
    ):
        files = files_in(directory)
        (directory / "config.json").write_text("changed")
        is_a_copy = directory.is_relative_to(temporary)
        assert len(list(temporary.iterdir())) == 1, "the killed process's is gone"
        raise ValueError("its use failed")

    assert is_a_copy
    assert files == FILES == files_in(kept)
    assert not list(temporary.iterdir())
    assert capfd.readouterr() == ("", "")


def test_a_registered_model_is_found_from_any_folder(
    root: Path, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    client = mlflow_client(root)
    client.create_registered_model("toy")
    source = f"{run.info.artifact_uri}/model"
    client.create_model_version("toy", source=source, run_id=run.info.run_id)
    client.set_registered_model_alias("toy", "best", "1")

    for version in ("/1", "/latest", "@best"):
        with model_from_mlflow(f"models:/toy{version}", root=root) as found:
            assert files_in(found) == FILES

    assert not list(Path().iterdir())


UNKNOWN = [
    f"runs:/{'0' * 32}/model",
    "runs:/RUN/samples",
    "runs:/RUN/model/deeper",
    "runs:/RUN/../model",
    "runs:/RUN",
    "runs:/",
    "models:/unknown/1",
    "models:/unknown/latest",
    "models:/unknown@best",
    "models:/unknown",
    "models:/",
]


def test_a_model_that_mlflow_does_not_keep_is_named(
    root: Path, run: Any, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    for address in UNKNOWN:
        address = address.replace("RUN", run.info.run_id)

        with (
            pytest.raises(InputError) as caught,
            model_from_mlflow(address, root=root),
        ):
            pass

        assert str(caught.value).startswith(f"cannot get {address} from MLflow: ")
        assert not list(temporary.iterdir())
