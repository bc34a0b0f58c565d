"""The doctor and trainings that have not ended."""

import os
from pathlib import Path

from tests.resuming.folders import INPUTS, OTHER_PRECISION, interrupt, leave_outdated
from toygpt.doctor.finding import Finding
from toygpt.doctor.trainings import check_trainings
from toygpt.pipeline.lock import locked
from toygpt.resuming.run_folder import open_run_folder


def findings(root: Path) -> list[tuple[str, str]]:
    """Return each problem, with the command that the doctor suggests."""
    found = [line for line in check_trainings(root) if isinstance(line, Finding)]
    return [tuple(vars(finding).values())[:2] for finding in found]


def test_without_a_training_there_is_nothing_to_find(tmp_path: Path) -> None:
    assert list(check_trainings(tmp_path)) == ["none was interrupted"]


def test_each_interrupted_training_is_named_with_the_command_that_resumes_it(
    tmp_path: Path,
) -> None:
    training = interrupt(tmp_path)
    ((problem, command),) = findings(tmp_path)
    assert problem.startswith("nano: step 3 of 10, ")
    assert "; interrupted " in problem
    assert command == "python . resume"
    with open_run_folder(tmp_path, INPUTS):  # one that runs is not a problem
        (line,) = check_trainings(tmp_path)
    assert str(line).endswith(f"; process {os.getpid()} trains it now")

    interrupt(tmp_path, OTHER_PRECISION)

    commands = [command for _, command in findings(tmp_path)]
    assert f"python . resume {training.fingerprint[:8]}" in commands
    assert len(commands) == 2


def test_damage_is_named_with_what_it_costs(tmp_path: Path) -> None:
    training = interrupt(tmp_path)
    training.save(6, {})
    os.truncate(training.folder / "step-6.ckpt", 10)

    _, (problem, command) = findings(tmp_path)
    assert "step-6.ckpt is damaged: 10 bytes" in problem
    assert problem.endswith("; it resumes from step 3")
    assert command == "python . resume"

    (training.folder / "step-3.ckpt").unlink()
    commands = [command for _, command in findings(tmp_path)]
    assert commands == ["python . train --fresh"] * 3

    (training.folder / "LATEST.json").write_text("{")
    ((problem, command),) = findings(tmp_path)
    assert "LATEST.json is damaged" in problem
    assert command == "python . train --fresh"


def test_a_folder_without_description_is_named(tmp_path: Path) -> None:
    training = interrupt(tmp_path)
    (training.folder / "training.json").unlink()
    ((problem, command),) = findings(tmp_path)
    assert "has lost its training.json" in problem
    assert command == "python . train"

    training.remove_all_but([])
    ((problem, command),) = findings(tmp_path)
    folder = training.folder.relative_to(tmp_path)
    assert (problem, command) == (f"{folder} holds no training", f"rm -r {folder}")


def test_a_training_of_another_version_is_named_unless_it_runs(tmp_path: Path) -> None:
    folder = leave_outdated(tmp_path)

    ((problem, command),) = findings(tmp_path)

    assert "was written by another version of toyGPT" in problem
    assert command == f"rm -r {folder.relative_to(tmp_path)}"
    with locked(folder / "lock"):
        assert findings(tmp_path) == []
