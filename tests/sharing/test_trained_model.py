"""What is published is of one model: its weights, its data, its results."""

import json

import pytest

from tests.project import Workspace
from toygpt.pipeline.errors import InputError
from toygpt.sharing.trained_model import TrainedModel, read_trained_model

LOCK_OF_MODEL = "- path: models/toygpt\n      hash: md5\n      md5: "


@pytest.fixture(autouse=True)
def _here(project: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    project.enter(monkeypatch)


def read(project: Workspace) -> TrainedModel:
    return read_trained_model(project.root)


def complaint(project: Workspace) -> str:
    with pytest.raises(InputError) as caught:
        read(project)
    return str(caught.value)


def test_a_built_project_has_a_model_with_its_results(project: Workspace) -> None:
    model = read(project)

    metrics = (project.root / "metrics/evaluate.json").read_text()
    assert model.test_results == json.loads(metrics)
    assert "test_bits_per_byte" in model.test_results
    assert model.sample is not None
    assert model.sample["prompt"] == model.params.generate_samples.prompts[0]


def test_without_an_evaluation_there_are_no_results(project: Workspace) -> None:
    """As after `python . train --no-evaluate`."""
    project.run("dvc", "repro", "--force", "--single-item", "train")

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


def test_a_missing_training_or_model_is_named(project: Workspace) -> None:
    lock = project.root / "dvc.lock"
    lock.write_text("schema: '2.0'\nstages: {}\n")
    project.run("rm", "-r", "reports/samples", "metrics")
    assert complaint(project).startswith("dvc.lock does not say what models/toygpt was")

    (project.root / "models/toygpt/config.json").unlink()
    assert "holds no model" in complaint(project)


def test_the_data_are_those_of_the_training(project: Workspace) -> None:
    project.set_params({"corpus": "files"})

    assert "was trained on the corpus 'python'" in complaint(project)
