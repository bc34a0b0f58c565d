"""`toygpt export`: mistakes are reported before anything heavy is imported."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.conftest import assert_refused
from tests.conftest import Toygpt
from tests.model.saved import save
from toygpt.cli import export

HAS_PACKAGES = all(map(find_spec, export.PACKAGES))


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PACKAGES, reason="needs `uv sync --extra onnx`")
def test_the_model_is_exported_beside_the_projects(
    toygpt: Toygpt, folder: Path
) -> None:
    model = save(folder).directory
    (folder / "models").mkdir()
    model.rename(folder / "models/toygpt")

    output = toygpt("export", "onnx")

    assert (output.code, output.err) == (0, "")
    assert output.out.startswith(f"{folder}/models/onnx/model.onnx: its logits differ")
    assert (folder / "models/onnx/model.onnx").is_file()


@pytest.mark.skipif(not HAS_PACKAGES, reason="needs `uv sync --extra onnx`")
@pytest.mark.usefixtures("folder")
def test_a_project_without_a_model_is_refused(toygpt: Toygpt) -> None:
    assert_refused(toygpt("export", "onnx"), "models/toygpt holds no model")
    assert_refused(toygpt("export", "onnx", "--model", "x"), "x holds no model")


@pytest.mark.usefixtures("folder")
def test_a_missing_package_and_a_format_that_is_not_known_are_named(
    toygpt: Toygpt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PACKAGES", ("onnx_of_nowhere",))

    assert_refused(
        toygpt("export", "onnx"), "package onnx_of_nowhere", "uv sync --extra onnx"
    )
    assert_refused(toygpt("export", "gguf"), "'gguf'", "onnx")
    assert_refused(toygpt("export"), "required: onnx")
