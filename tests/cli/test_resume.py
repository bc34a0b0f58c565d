"""`toygpt resume`: which training it continues. test_pipeline_resume.py resumes one."""

import os
from datetime import datetime
from pathlib import Path

import pytest

from tests.cli.conftest import assert_refused
from tests.conftest import Toygpt
from tests.resuming.folders import DESCRIPTION, interrupt
from toygpt.cli.resume import state_and_start_of_this_job
from toygpt.tracking.run_info import RunInfo, runs_folder, write_info

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


@pytest.mark.parametrize(
    ("reason", "job", "state", "error"),
    [
        ("stopped by SIGTERM after step 3", "7", "RUNNING", None),
        ("stopped by SIGUSR1 after step 3", "7", "RUNNING", None),
        ("stopped by SIGTERM after step 3", None, "", None),
        # As `scancel` does.
        ("stopped by SIGTERM after step 3", "7", "CANCELLED", "job 7 of Slurm is CANC"),
        ("stopped by SIGTERM after step 3", "7", "", "job 7 of Slurm is unknown"),
        (
            "stopped by SIGTERM after step 3",
            "7",
            "RUNNING N/A",
            "job 7 of Slurm is unk",
        ),
        ("stopped by SIGTERM after step 3", "8", "RUNNING", "no training was stopped"),
        ("stopped by SIGINT after step 3", "7", "RUNNING", "no training was stopped"),
        ("training diverged: the loss is", "7", "RUNNING", "no training was stopped"),
        (None, "7", "RUNNING", "no training was stopped"),  # its process was killed
        # The job has come back since, and has failed before it could train.
        (
            *("stopped by SIGTERM after step 3", "7"),
            *("RUNNING 2999-01-01T00:00:00", "no training was stopped"),
        ),
    ],
)
def test_a_batch_job_that_was_preempted_asks_to_be_requeued(
    toygpt: Toygpt,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    reason: str | None,
    job: str | None,
    state: str,
    error: str | None,
) -> None:
    training = interrupt(folder)
    write_info(
        runs_folder(folder) / DESCRIPTION.run,
        RunInfo(
            DESCRIPTION.run,
            *("nano", "toygpt", {}, {}, []),
            reason=reason,
            metadata={"slurm.job": "7"},
        ),
    )
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    if state in ("RUNNING", "CANCELLED"):
        state += " 1969-01-01T00:00:00"
    (folder / "squeue").write_text(f"#!/bin/sh\necho {state}\n")
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    output = toygpt("resume", "--check")

    assert output.code == (0 if error is None else 1)
    if error is None:
        assert output.out == f"nano: {reason}\n"
    else:
        assert output.err.startswith(error)
    with training.locked():  # it runs: there is nothing to requeue
        assert toygpt("resume", "--check").code == 1


@pytest.mark.parametrize(("task", "asked"), [(None, "7"), ("2", "5_2")])
def test_of_an_array_slurm_is_asked_for_one_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch, task: str | None, asked: str
) -> None:
    """Also where the user prefers another form of times."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    if task is not None:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
    script = rf"""#!/bin/sh
        [ "$SLURM_TIME_FORMAT" = standard ] && start=1970-01-02T00:00:00
        case "$*" in *--jobs={asked}\ *) echo "RUNNING $start" ;; esac
    """
    (folder / "squeue").write_text(script)
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    state, start = state_and_start_of_this_job()

    assert state == "RUNNING"
    assert start == datetime(1970, 1, 2).timestamp()


def test_without_an_interrupted_training_there_is_nothing_to_requeue(
    toygpt: Toygpt, folder: Path
) -> None:
    assert toygpt("resume", "--check").code == 1
