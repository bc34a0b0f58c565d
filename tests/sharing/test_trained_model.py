"""What is published is of one model: its weights, its data, its results."""

import json
from typing import Any

import pytest

from tests.project import Workspace
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.measurements import remove_measurements
from toygpt.sharing.trained_model import TrainedModel, read_trained_model

DOCUMENTS = "- path: data/documents\n      hash: md5\n      md5: "
LOCK_OF_MODEL = "- path: models/toygpt\n      hash: md5\n      md5: "


@pytest.fixture(autouse=True)
def _here(project: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    project.enter(monkeypatch)


def read(project: Workspace) -> TrainedModel:
    return read_trained_model(project.root)


def complaint(project: Workspace) -> str:
    with pytest.raises(InputError) as caught:
        read(project)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_built_project_has_a_model_with_its_results(project: Workspace) -> None:
    model = read(project)

    metrics = (project.root / "metrics/evaluate.json").read_text()
    assert model.test_results == json.loads(metrics)
    assert "test_bits_per_byte" in model.test_results
    assert model.sample is not None
    assert model.sample["prompt"] == model.params.generate_samples.prompts[0]


def test_without_an_evaluation_there_are_no_results(project: Workspace) -> None:
    """As `train` leaves it, before the model is evaluated."""
    remove_measurements()

    model = read(project)

    assert model.test_results == {}
    assert model.sample is None


@pytest.mark.parametrize("stage", ["evaluate", "generate-samples"])
def test_results_of_another_model_are_refused(project: Workspace, stage: str) -> None:
    """dvc.lock has the digest of the model that each stage has read."""
    lock = project.root / "dvc.lock"
    before, name, after = lock.read_text().partition(f"\n  {stage}:\n")
    assert after.count(LOCK_OF_MODEL) >= 1
    after = after.replace(LOCK_OF_MODEL, f"{LOCK_OF_MODEL}0", 1)
    lock.write_text(before + name + after)

    assert complaint(project) == (
        f"metrics/{stage}.json is of another model than models/toygpt: run `dvc repro "
        f"{stage}`"
    )


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("models/toygpt/README.md", "models/toygpt"),
        ("metrics/evaluate.json", "metrics/evaluate.json"),
        ("reports/samples/samples.jsonl", "reports/samples"),
    ],
)
def test_what_was_changed_by_hand_is_refused(
    project: Workspace, file: str, path: str
) -> None:
    changed = project.root / file
    text = changed.read_text()
    changed.unlink()  # in DVC's cache there may be a link to it
    changed.write_text(text.replace("1", "0"))

    message = f"{path} is not as dvc.lock has it: `python . doctor` names the command"
    assert complaint(project).startswith(message)
    changed.unlink()
    assert complaint(project).startswith(message)


def test_what_dvc_ignores_is_not_published(project: Workspace) -> None:
    directory = project.root / "models/toygpt"
    whole = sorted(directory.iterdir())
    (directory / ".DS_Store").touch()
    (directory / "core.pyc").touch()
    (directory / ".ipynb_checkpoints").mkdir()
    (directory / ".ipynb_checkpoints/notes.txt").touch()

    assert read(project).files == whole


@pytest.mark.parametrize("lock", ["schema: '2.0'\n", "schema: '2.0'\nstages: {}\n"])
def test_a_missing_training_or_model_is_named(project: Workspace, lock: str) -> None:
    (project.root / "dvc.lock").write_text(lock)
    project.run("rm", "-r", "reports/samples", "reports/evaluate", "metrics")
    assert complaint(project).startswith("dvc.lock does not say what models/toygpt was")

    (project.root / "models/toygpt/config.json").unlink()
    assert "holds no model" in complaint(project)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": "files"}, "with corpus 'python', and in params.yaml it is 'files'"),
        (
            {"corpora.python": {"source": "hub", "datasets": ["wikisource"]}},
            "with corpora.python.source 'standard_library', and in params.yaml it is "
            "'hub'",
        ),
    ],
)
def test_the_data_are_those_of_the_training(
    project: Workspace, changes: dict[str, Any], message: str
) -> None:
    project.set_params({"hub.redpajama.repository": "ada/other"})
    read(project)

    project.set_params(changes)

    assert message in complaint(project)


def test_new_data_without_a_training_are_refused(project: Workspace) -> None:
    """As after `dvc repro download`."""
    lock = project.root / "dvc.lock"
    head, name, digest = lock.read_text().partition(DOCUMENTS)
    lock.write_text(f"{head}{name}0{digest}")

    assert "was trained on another data/documents than is there" in complaint(project)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("- reports/samples", "- reports/sample", "reports/samples is not as dvc.lock"),
        ("  train:\n", "  learn:\n", "models/toygpt is not as dvc.lock has it"),
        ("stages:\n", "stages: [\n", "DVC: unable to read: 'dvc.yaml'"),
    ],
)
def test_a_changed_pipeline_is_one_line(
    project: Workspace, old: str, new: str, message: str
) -> None:
    pipeline = project.root / "dvc.yaml"
    before = pipeline.read_text()
    pipeline.write_text(before.replace(old, new))
    assert pipeline.read_text() != before

    assert complaint(project).startswith(message)


def test_a_project_outside_of_git_is_one_line(project: Workspace) -> None:
    project.run("rm", "-r", ".git")

    assert "is not a git repository" in complaint(project)
