"""Numbers leave with the model that they were measured of."""

from pathlib import Path

import pytest

from tests.project import PROJECT
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.measurements import (
    is_of_this_model,
    outdated_measurements,
    remove_measurements,
)

LOCK = (PROJECT / "dvc.lock").read_text(encoding="utf-8")
NUMBERS = [Path("metrics/evaluate.json"), Path("metrics/generate-samples.json")]
SAMPLES, REPORT = Path("reports/samples"), Path("reports/evaluate")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a project with results of all stages."""
    others = (SAMPLES / "samples.md", REPORT / "report.html")
    for path in (*NUMBERS, Path("metrics/train.json"), *others):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text('{"number": 1.5}\n')
    (tmp_path / "dvc.lock").write_text(LOCK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_model_takes_the_numbers_of_the_old_one_with_it(project: Path) -> None:
    for _ in range(2):  # the second time, as after a kill, there is nothing left
        remove_measurements()

        assert [path.read_text() for path in NUMBERS] == ["{}\n", "{}\n"]
        assert not SAMPLES.exists()
        assert not REPORT.exists()
        assert Path("metrics/train.json").read_text() == '{"number": 1.5}\n'
        # What DVC has noted of other stages stays, to the letter.
        before, _ = LOCK.split("\n  evaluate:\n")
        assert Path("dvc.lock").read_text() == f"{before}\n"
        assert outdated_measurements(project) == {}


def test_where_dvc_lock_is_missing_none_is_made(project: Path) -> None:
    (project / "dvc.lock").unlink()

    remove_measurements()

    assert not (project / "dvc.lock").exists()


@pytest.mark.parametrize(
    "text", ["", LOCK[: len(LOCK) // 2] + "\n  - {", f"<<<<<<< HEAD\n{LOCK}"]
)
def test_a_damaged_lock_file_is_named_before_anything_is_removed(
    project: Path, text: str
) -> None:
    (project / "dvc.lock").write_text(text)

    for use in (
        remove_measurements,
        lambda: outdated_measurements(project),
        lambda: is_of_this_model(text, "evaluate"),
    ):
        with pytest.raises(InputError, match=r"^dvc\.lock is damaged: run `git check"):
            use()

    assert [path.read_text() for path in NUMBERS] == ['{"number": 1.5}\n'] * 2
    assert (SAMPLES / "samples.md").is_file()
    assert Path("dvc.lock").read_text() == text


def test_numbers_of_another_model_are_found(project: Path) -> None:
    """As after DVC has restored another model from its run cache."""
    assert is_of_this_model(LOCK, "evaluate")
    assert outdated_measurements(project) == {}

    model = "    - path: models/toygpt\n      hash: md5\n      md5: "
    assert LOCK.count(model) == 3  # first as a result of `train`
    lock = LOCK.replace(model, f"{model}0", 1)
    (project / "dvc.lock").write_text(lock)

    assert not is_of_this_model(lock, "evaluate")
    assert outdated_measurements(project) == {
        "evaluate": [NUMBERS[0], REPORT],
        "generate-samples": [NUMBERS[1], SAMPLES],
    }
