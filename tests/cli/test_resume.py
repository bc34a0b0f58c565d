"""`toygpt resume`: which training it continues. test_pipeline_resume.py resumes one."""

from pathlib import Path

import pytest

from tests.cli.conftest import Toygpt, assert_refused
from tests.resuming.folders import interrupt

PARAMS = {"seed": 1337, "train": {"learning_rate": 0.004}}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("seed: 5\ntracking: {project: another}", "seed was 1337 and would be 5"),
        ("corpus: files", "corpus was None and would be files"),
        (None, "cannot read config.yaml"),
    ],
)
def test_parameters_of_another_training_are_refused(
    toygpt: Toygpt, folder: Path, content: str | None, named: str
) -> None:
    """Also where the training is one of several, named by its id."""
    if content is not None:
        (folder / "config.yaml").write_text(content)
    training, _ = (interrupt(folder, {"seed": n}, params=PARAMS) for n in range(2))

    output = toygpt("resume", training.fingerprint, "--config", "config.yaml")

    assert_refused(output, named)
    assert "tracking" not in output.err


@pytest.mark.parametrize(
    ("rate", "experiment", "command"),
    [
        (0.003, None, "repro"),
        (0.004, "mine", "exp run --name mine --set-param train.learning_rate=0.004"),
    ],
)
def test_dvc_gets_the_parameters_that_the_training_had(
    toygpt: Toygpt, folder: Path, rate: float, experiment: str | None, command: str
) -> None:
    params = {"seed": 1337, "train": {"learning_rate": rate}}
    training = interrupt(folder, params=params, experiment=experiment)

    output = toygpt("resume")

    first, second = output.out.splitlines()
    assert output.code == 0
    assert first.startswith(f"resuming nano (id {training.fingerprint[:8]}, ")
    assert second == f"{command.split()} {training.fingerprint} None"
    assert "DVC had the results of this training already" in output.err
