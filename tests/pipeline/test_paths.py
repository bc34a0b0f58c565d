"""Where things lie: results in the working directory, records in the user's project."""

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


def test_results_lie_in_the_working_directory() -> None:
    """An experiment runs in a copy of the project and must find the copy's files."""
    places = [value for value in vars(paths).values() if isinstance(value, Path)]

    outside = [path for path in places if path.is_absolute() or ".." in path.parts]

    assert len(places) >= 9
    assert not outside


def test_no_result_lies_inside_another() -> None:
    """DVC refuses outs that overlap; the tokenizer is a part of the tokens."""
    outs = [
        paths.DOCUMENTS,
        paths.TOKENS,
        paths.SPLITS,
        paths.MODEL,
        paths.TRAIN_REPORT,
        paths.SAMPLES,
        paths.METRICS,
    ]

    overlapping = [(a, b) for a in outs for b in outs if a != b and a.is_relative_to(b)]

    assert not overlapping
    assert paths.TOKENIZER.is_relative_to(paths.TOKENS)


def test_the_main_root_is_the_nearest_folder_above_with_a_dvc_yaml(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.parent / "dvc.yaml").touch()
    monkeypatch.chdir(project / "data" / "tokens")

    assert paths.main_root() == project


def test_in_the_project_folder_the_main_root_is_right_here(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)

    assert paths.main_root() == project


def test_without_a_project_the_main_root_is_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert paths.main_root() == tmp_path


def test_a_folder_called_dvc_yaml_makes_no_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = project / "data"
    (inside / "dvc.yaml").mkdir()
    monkeypatch.chdir(inside)

    assert paths.main_root() == project


def test_in_a_temporary_experiment_the_main_root_is_the_project_it_belongs_to(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy holds a dvc.yaml, too, but is deleted afterwards."""
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "dvc.yaml").touch()
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(project))

    assert paths.main_root() == project


def test_the_main_root_stays_right_when_the_working_directory_changes(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.parent)
    monkeypatch.setenv("DVC_ROOT", "project")

    root = paths.main_root()

    assert root.is_absolute()
    assert root == project
