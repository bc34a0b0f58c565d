"""W&B's environment variables come first, and a bad one is refused at once."""

from pathlib import Path

import pytest

from tests.tracking.trackers import Warned, new_record, tracked_by
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import TrackingParams
from toygpt.tracking.settings import with_environment
from toygpt.tracking.wandb.settings import (
    settings_of_run,
    settings_of_training,
    to_metadata,
)

PARAMS = tracked_by("wandb", entity="team", notes="from params.yaml")


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_MODE": ""}, "offline"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_MODE": "run"}, "online"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "online", "WANDB_DISABLED": "True"}, "disabled"),
        ({"WANDB_DISABLED": "false"}, "offline"),
    ],
)
def test_the_mode_of_the_environment_comes_before_that_of_params(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], mode: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    found = with_environment(PARAMS)

    assert found == PARAMS.model_copy(update={"wandb": mode})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_MODE", "onlin"),
        ("WANDB_PROJECT", "a/b"),
        ("WANDB_ENTITY", "a" * 129),
        ("WANDB_TAGS", "good," + "x" * 65),
        ("WANDB_RUN_ID", "../a"),
        ("WANDB_SWEEP_ID", " "),
        ("WANDB_DIR", "~no-such-user/x"),
    ],
)
def test_what_wandb_would_refuse_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(InputError) as error:
        with_environment(PARAMS)

    message = str(error.value)
    assert message.startswith(f"{name}: got {value!r}; W&B takes ")
    assert "\n" not in message


@pytest.mark.parametrize("tracking", [PARAMS, tracked_by()])
def test_what_wandb_would_refuse_is_of_no_interest_where_it_is_disabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking: TrackingParams
) -> None:
    monkeypatch.setenv("WANDB_TAGS", "x" * 65)
    if tracking.wandb != "disabled":
        monkeypatch.setenv("WANDB_MODE", "disabled")

    tracking = with_environment(tracking)

    assert tracking.wandb == "disabled"
    assert "tags" not in settings_of_training(tracking, tmp_path)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_NOTES", "")
    monkeypatch.setenv("WANDB_ENTITY", "another")

    assert settings_of_run(PARAMS, Path()) == {
        "entity": "another",
        "notes": "from params.yaml",
    }


def test_the_id_of_a_sweeps_agent_is_given_to_one_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: Warned
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "agent7")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep3")
    monkeypatch.setenv("WANDB_NAME", "by hand")

    first = settings_of_training(PARAMS, tmp_path)
    new_record(tmp_path, metadata=to_metadata(first))
    second = settings_of_training(PARAMS, tmp_path)

    assert (first["run_id"], first["sweep_id"]) == ("agent7", "sweep3")
    assert first["name"] == second["name"] == "by hand", "as W&B itself names them"
    assert second == {**settings_of_run(PARAMS, tmp_path), "name": "by hand"}
    assert not second.keys() & {"run_id", "sweep_id"}
    (warning,) = warned()
    assert "WANDB_RUN_ID=agent7 is the run of nano-python" in warning


@pytest.mark.parametrize(
    ("folder", "kept"),
    [("/here", "."), ("/here/a", "a"), ("b", "b"), ("~/c", "/me/c"), ("/d", "/d")],
)
def test_a_folder_in_the_project_moves_with_the_project(
    monkeypatch: pytest.MonkeyPatch, folder: str, kept: str
) -> None:
    """The agent of a sweep sets WANDB_DIR to the folder that it was started in."""
    monkeypatch.setenv("HOME", "/me")
    monkeypatch.setenv("WANDB_DIR", folder)

    assert settings_of_run(PARAMS, Path("/here"))["folder"] == kept
