"""A model that MLflow keeps is copied for as long as it is needed.

Which addresses are models, and which are refused: see `tests/cli/test_generate.py`.
"""

from pathlib import Path

import pytest

from tests.files import files_in
from tests.tracking.trackers import (
    MODEL_FILES,
    log_everything,
    mlflow_files,
    mlflow_runs,
)
from toygpt.tracking.mlflow_models import model_from_mlflow


def test_a_kept_model_is_there_for_as_long_as_it_is_needed(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log_everything(root, "mlflow")
    (kept,) = mlflow_runs(root)
    temporary = root / ".toygpt" / "tmp"

    with (
        pytest.raises(ValueError, match="its use failed"),
        model_from_mlflow(f"runs:/{kept.info.run_id}/model", root=root) as directory,
    ):
        files = files_in(directory)
        (directory / "deep" / "file").write_text("changed")
        assert directory.is_relative_to(temporary)
        raise ValueError("its use failed")

    assert files == MODEL_FILES
    assert mlflow_files(root, kept)["model/deep/file"] == "text"
    assert not list(temporary.iterdir())
    assert capfd.readouterr() == ("", "")
