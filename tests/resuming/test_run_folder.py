"""The folder of an interrupted training: which one it is, and who may continue it."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.resuming.folders import (
    DESCRIPTION,
    FINGERPRINT,
    INPUTS,
    OTHER_PRECISION,
    files_of,
    interrupt,
    leave_outdated,
    steps_of,
)
from toygpt.pipeline.errors import InputError
from toygpt.resuming.fingerprint import fingerprint_of
from toygpt.resuming.run_folder import (
    RunFolder,
    list_run_folders,
    open_run_folder,
    run_folders_root,
)


def refused(root: Path, match: str, inputs: dict[str, Any], **options: Any) -> None:
    with (
        pytest.raises(InputError, match=match),
        open_run_folder(root, inputs, **options),
    ):
        pass


def test_the_same_training_is_found_again_and_no_other(tmp_path: Path) -> None:
    interrupt(tmp_path)

    with open_run_folder(tmp_path, INPUTS | {"train.lr": 0.25}) as other:
        assert other.best_checkpoint() is None
    with open_run_folder(tmp_path, INPUTS, expected=FINGERPRINT) as same:
        assert steps_of(same) == [3]
        assert same.describe() == DESCRIPTION


def test_a_second_trainer_is_refused_with_the_process_of_the_first(
    tmp_path: Path,
) -> None:
    with open_run_folder(tmp_path, INPUTS) as training:
        running = rf"running already: process {os.getpid()} works in {training.folder}"

        refused(tmp_path, running, INPUTS)
        refused(tmp_path, running, OTHER_PRECISION, expected=FINGERPRINT)


def test_an_error_of_the_system_in_training_is_not_taken_for_a_second_trainer(
    tmp_path: Path,
) -> None:
    with pytest.raises(BlockingIOError), open_run_folder(tmp_path, INPUTS):
        raise BlockingIOError


def test_starting_over_removes_all_but_the_lock_however_damaged_it_is(
    tmp_path: Path,
) -> None:
    training = interrupt(tmp_path)
    for name in ("LATEST.json", "training.json", "step-3.ckpt"):
        (training.folder / name).write_text("{")
    refused(tmp_path, r"LATEST\.json is damaged.*--fresh", INPUTS)

    with open_run_folder(tmp_path, INPUTS, fresh=True) as training:
        assert files_of(training) == ["LATEST.json", "lock"]


def test_what_a_killed_process_left_is_swept_when_training_resumes(
    tmp_path: Path,
) -> None:
    """The id in the name may be that of a running process, even of this one."""
    training = interrupt(tmp_path)
    with open_run_folder(tmp_path, INPUTS):
        before = files_of(training)
    temporary = f".step-7.ckpt.{os.getpid()}.tmp"
    for name in (temporary, ".LATEST.json.1.tmp", "step-7.ckpt"):
        (training.folder / name).write_text("half")
    half_removed = run_folders_root(tmp_path) / ".0123.1.tmp"
    half_removed.mkdir()
    (half_removed / "step-3.ckpt").write_text("outdated")

    with open_run_folder(tmp_path, INPUTS):
        assert files_of(training) == before
    assert [path.name for path in run_folders_root(tmp_path).iterdir()] == [FINGERPRINT]


def test_interrupted_trainings_are_listed_and_nothing_else(tmp_path: Path) -> None:
    assert list_run_folders(tmp_path) == []
    with ExitStack() as stack:
        for inputs in (INPUTS, OTHER_PRECISION):
            stack.enter_context(open_run_folder(tmp_path, inputs))
    (run_folders_root(tmp_path) / "notes.txt").write_text("")
    (run_folders_root(tmp_path) / ".0123.1.tmp").mkdir()

    listed = [training.fingerprint for training in list_run_folders(tmp_path)]

    assert listed == sorted([FINGERPRINT, fingerprint_of(OTHER_PRECISION)])


def test_a_damaged_description_costs_no_checkpoint(tmp_path: Path) -> None:
    training = interrupt(tmp_path, started="soon")
    path = training.folder / "training.json"

    with pytest.raises(InputError, match=r"json is damaged .* delete this file"):
        training.describe()
    path.unlink()

    assert training.describe() is None
    assert steps_of(training) == [3]


def test_a_training_is_continued_in_another_precision_if_the_user_asks_for_it(
    tmp_path: Path,
) -> None:
    interrupt(tmp_path)

    with open_run_folder(tmp_path, OTHER_PRECISION, expected=FINGERPRINT) as training:
        assert steps_of(training) == [3]
    assert [entry.fingerprint for entry in list_run_folders(tmp_path)] == [
        fingerprint_of(OTHER_PRECISION)
    ]


def test_no_other_training_passes_for_the_one_that_was_asked_for(
    tmp_path: Path,
) -> None:
    missing = "there is no interrupted training "
    changed = OTHER_PRECISION | {"train.lr": 0.25, "train.bin": "ab" * 32}
    refused(tmp_path, f"{missing}0123", INPUTS, expected="0123")
    assert list_run_folders(tmp_path) == []
    training = interrupt(tmp_path)

    another = (
        r"not the training that was interrupted \(nano\): "
        r"train\.bin was None and is (ab){6}…; train\.lr was 0\.5 and is 0\.25$"
    )
    refused(tmp_path, another, changed, expected=FINGERPRINT)
    (training.folder / "training.json").unlink()
    refused(tmp_path, f"{missing}{FINGERPRINT}", OTHER_PRECISION, expected=FINGERPRINT)

    assert steps_of(training) == [3]


def test_a_training_does_not_take_the_place_of_another(tmp_path: Path) -> None:
    for inputs in (INPUTS, OTHER_PRECISION):
        interrupt(tmp_path, inputs)

    there_is = "with these parameters, too; resume that one"
    refused(tmp_path, there_is, OTHER_PRECISION, expected=FINGERPRINT)

    assert len(list_run_folders(tmp_path)) == 2


def test_a_training_of_another_version_is_left_alone_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outdated = leave_outdated(tmp_path)
    before = files_of(RunFolder(outdated))

    with open_run_folder(tmp_path, INPUTS) as training:
        assert training.best_checkpoint() is None
        first = capsys.readouterr().err
    interrupt(tmp_path)

    assert first.startswith(f"WARNING: not continued: {outdated} was written by")
    assert "delete the folder and train from the start" in first
    assert capsys.readouterr().err == "", "it is said once, when a training starts"
    assert files_of(RunFolder(outdated)) == before
    refused(tmp_path, "written by another version", INPUTS, expected=outdated.name)
    with pytest.raises(InputError, match="has version 1, this toyGPT reads 3"):
        RunFolder(outdated).checkpoints()
