"""The choice among interrupted trainings."""

import io
import os
import re
from pathlib import Path

import pytest

from tests.resuming.folders import (
    DESCRIPTION,
    FINGERPRINT,
    INPUTS,
    OTHER_PRECISION,
    interrupt,
    leave_outdated,
)
from toygpt.pipeline.errors import InputError
from toygpt.resuming.choose import check_changes, choose, interrupted_trainings
from toygpt.resuming.run_folder import open_run_folder


def test_a_training_that_runs_is_not_resumed(tmp_path: Path) -> None:
    running = f"nothing to resume: process {os.getpid()} is still training"

    with open_run_folder(tmp_path, INPUTS):
        with pytest.raises(InputError, match=running):
            interrupted_trainings(tmp_path)
        interrupt(tmp_path, OTHER_PRECISION)
        assert len(interrupted_trainings(tmp_path)) == 1


def test_a_training_of_another_version_is_not_a_choice_and_in_no_one_s_way(
    tmp_path: Path,
) -> None:
    outdated = leave_outdated(tmp_path)
    with pytest.raises(InputError, match=rf"{outdated} was written by another version"):
        interrupted_trainings(tmp_path)

    interrupt(tmp_path)

    (found,) = interrupted_trainings(tmp_path)
    assert found.training.fingerprint == FINGERPRINT
    assert re.fullmatch(
        r"nano \(id \w{8}, started 1970-01-01 .*, step 3 of 10\)", str(found)
    )


def test_several_trainings_are_listed_with_the_inputs_that_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = interrupt(tmp_path, INPUTS | {"train.bin": "cd" * 32}, name="one")
    interrupt(tmp_path, OTHER_PRECISION | {"train.bin": "ab" * 32}, name="other")
    found = interrupted_trainings(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())  # not a terminal

    with pytest.raises(InputError, match="several trainings were interrupted") as error:
        choose(found, None)
    with pytest.raises(InputError, match="no interrupted training is called 'third'"):
        choose(found, "third")

    assert "train.precision 32-true" in str(error.value)
    assert "train.bin" not in str(error.value), "of a digest, users learn nothing"
    assert choose(found, "other").description.name == "other"
    assert choose(found, first.fingerprint[:6]).description.name == "one"
    assert choose(found[:1], None) is found[0]


def test_at_a_terminal_the_user_is_asked_until_the_answer_is_a_number_of_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for inputs in (INPUTS, OTHER_PRECISION):
        interrupt(tmp_path, inputs)
    found = interrupted_trainings(tmp_path)
    found[0].training.remove_all_but([])
    answers = io.StringIO("\nx\n0\n3\n2\n")
    monkeypatch.setattr(answers, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", answers)

    assert choose(found, None) is found[1]
    with pytest.raises(InputError, match="no training was chosen"):
        choose(found, None)  # the terminal is closed

    shown = capsys.readouterr().err
    assert shown.count("which one? [number] ") == 6
    assert ", step 0 of 10): train.precision" in shown


def test_changes_that_make_another_training_are_refused_before_dvc_starts() -> None:
    free = ["train.precision", "runtime.devices", "tracking.wandb"]
    same = {**dict.fromkeys(free, "other"), "seed": 1}

    check_changes(DESCRIPTION, same)
    with pytest.raises(InputError, match=r"\(nano\): seed was 1 and would be 5$"):
        check_changes(DESCRIPTION, {**same, "seed": 5})
