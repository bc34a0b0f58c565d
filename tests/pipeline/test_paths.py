"""Records lie in the project that the user works in."""

from pathlib import Path

import pytest

from toygpt.pipeline import paths


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder that DVC and toyGPT take for a project."""
    folder = tmp_path / "project"
    (folder / "data" / "tokens").mkdir(parents=True)
    (folder / "dvc.yaml").touch()
    return folder


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        ("project", "project"),
        ("project/data/tokens", "project"),  # there is a dvc.yaml above, too
        ("project/folder", "project"),  # in which dvc.yaml is a folder
        ("elsewhere", "elsewhere"),
    ],
)
def test_the_main_root_is_the_nearest_folder_above_with_a_dvc_yaml(
    project: Path, monkeypatch: pytest.MonkeyPatch, here: str, expected: str
) -> None:
    top = project.parent
    (project / "folder" / "dvc.yaml").mkdir(parents=True)
    (top / "elsewhere").mkdir()
    if here != "elsewhere":
        (top / "dvc.yaml").touch()
    monkeypatch.chdir(top / here)

    assert paths.main_root() == top / expected


@pytest.mark.parametrize("is_relative", [True, False])
def test_in_a_temporary_experiment_the_main_root_is_the_project_it_belongs_to(
    project: Path, monkeypatch: pytest.MonkeyPatch, is_relative: bool
) -> None:
    """The copy holds a dvc.yaml, too, but is deleted afterwards."""
    copy = project.parent / "copy"
    copy.mkdir()
    (copy / "dvc.yaml").touch()
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", "../project" if is_relative else str(project))

    assert paths.main_root() == project
