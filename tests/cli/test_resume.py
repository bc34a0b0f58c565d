"""`toygpt resume`: which training it continues. test_pipeline_resume.py resumes one."""

from pathlib import Path

import pytest

from tests.cli.command import Toygpt, assert_refused
from toygpt.cli import main
from toygpt.resuming.description import Description
from toygpt.resuming.run_folder import open_run_folder


def interrupt(root: Path, *rates: float, experiment: str | None = None) -> list[str]:
    """Make interrupted trainings, and return their ids."""
    ids = []
    for rate in rates:
        inputs = {"seed": 1337, "train.learning_rate": rate, "train.bin": "a" * 64}
        with open_run_folder(root, inputs) as training:
            training.write_description(
                Description(
                    name=f"rate-{rate}",
                    run="a-run",
                    started=0.0,
                    experiment=experiment,
                    is_temporary=False,
                    params={"seed": 1337, "train": {"learning_rate": rate}},
                    inputs=inputs,
                    max_steps=1000,
                )
            )
            training.save(600, {"weights": 1})
            ids.append(training.fingerprint)
    return ids


@pytest.mark.usefixtures("no_dvc")
def test_where_nothing_was_interrupted_nothing_is_resumed(toygpt: Toygpt) -> None:
    assert_refused(toygpt("resume"), "nothing to resume: no training was interrupted")
    assert_refused(toygpt("resume", "by-hand"), "nothing to resume")


def test_of_several_interrupted_trainings_one_must_be_named(
    toygpt: Toygpt, no_dvc: Path
) -> None:
    ids = interrupt(no_dvc, 0.004, 0.005)

    assert_refused(
        toygpt("resume"),
        "several trainings were interrupted; say which, by its id",
        *(training_id[:8] for training_id in ids),
    )


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("seed: 5\ntracking: {project: another}", "seed was 1337 and would be 5"),
        ("corpus: files", "corpus was None and would be files"),
        (None, "cannot read config.yaml"),
    ],
)
def test_parameters_of_another_training_are_refused(
    toygpt: Toygpt, no_dvc: Path, content: str | None, named: str
) -> None:
    if content is not None:
        (no_dvc / "config.yaml").write_text(content)
    first, _ = interrupt(no_dvc, 0.004, 0.005)

    output = toygpt("resume", first, "--config", "config.yaml")

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
    fake_dvc: Path,
    capfd: pytest.CaptureFixture[str],
    rate: float,
    experiment: str | None,
    command: str,
) -> None:
    (training_id,) = interrupt(fake_dvc, rate, experiment=experiment)

    assert main(["resume"]) == 0

    output = capfd.readouterr()
    first, second = output.out.splitlines()
    assert first.startswith(f"resuming rate-{rate} (id {training_id[:8]}, ")
    assert second == f"{command.split()} {training_id} None"
    assert "DVC had the results of this training already" in output.err
