"""Trainings that were killed, and how the same command resumes them, with real DVC."""

import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from tests.faults.audit import audit
from tests.faults.kills import (
    Command,
    is_gone,
    newest_step,
    stage_processes,
    started,
    wait_for_stage,
    wait_until,
)
from tests.faults.small import results_of
from tests.project import UNTRACKED, Workspace
from toygpt.resuming.run_folder import list_run_folders
from toygpt.tracking.run_info import RunInfo, all_infos

pytestmark = pytest.mark.slow

# Long enough to be killed three times on the way.
LONGER = {
    **UNTRACKED,
    "train.max_tokens": 64 * 400,
    "train.validate_every_tokens": 64 * 100,
    "train.dropout": 0.1,
    "train.precision": "32-true",
    "runtime.checkpoint_every_steps": 5,
}
# Nothing is trained with the learning rate that is committed: so a test sees it if an
# interrupted training loses its own.
RATE = {"train.learning_rate": 4e-3}
OTHER_RATE = {"train.learning_rate": 5e-3}
TRACKED = {"tracking.mlflow": True, "tracking.wandb": "offline"}
TRAIN = ("python", ".", "train", "--lr", "4e-3", "--name", "by-hand")
EXPERIMENT = ("dvc", "exp", "run", "-nby-hand", "-Strain.learning_rate=0.004")
RESUME = ("python", ".", "resume")


def longer_project(built: Workspace, root: Path) -> Workspace:
    """Return a copy of the tiny project in which only training is left to do."""
    workspace = built.copy_to(root)
    workspace.set_params(LONGER)
    yaml = YAML()
    for file in ("dvc.yaml", "dvc.lock"):  # the stages after training take longer
        pipeline = yaml.load(workspace.root / file)
        for name in ("evaluate", "generate-samples"):
            del pipeline["stages"][name]
        yaml.dump(pipeline, workspace.root / file)
    for folder in (".toygpt/runs", "wandb", "mlruns"):
        shutil.rmtree(workspace.root / folder, ignore_errors=True)
    (workspace.root / "mlflow.db").unlink(missing_ok=True)
    workspace.commit("longer")
    return workspace


def wait_for_training(root: Path, command: Command, *, step: int) -> psutil.Process:
    """Return the process that trains, once it has saved this step or a later one."""
    trainer = wait_for_stage(root, "train", beside=command)

    def look() -> bool:
        assert not is_gone(trainer), command.output
        return newest_step(root) >= step

    wait_until(look)
    return trainer


def kill_in_training(workspace: Workspace, *command: str, step: int = 5) -> int:
    """Kill the trainer of a command; return the step that it has saved."""
    with started(workspace, *command) as first:
        trainer = wait_for_training(workspace.root, first, step=step)
        trainer.kill()
        assert first.wait() != 0
        # What DVC says of it depends on the shell between them.
        assert any(f"exited with {code}\n" in first.output for code in (-9, 137))
    return newest_step(workspace.root)


def discard_edits(workspace: Workspace) -> None:
    workspace.run("git", "checkout", "--quiet", "--", ".")


def assert_resumed(output: str, step: int) -> None:
    assert step > 0
    assert f"resuming after step {step:,}\n" in output


def the_run(root: Path) -> RunInfo:
    """Return the info of the only run, on which all trackers must agree."""
    assert audit(root) == []
    (info,) = [info for _, info in all_infos(root)]
    return info


def test_a_training_ended_three_times_has_the_results_of_an_uninterrupted_one(
    built: Workspace, tmp_path: Path
) -> None:
    """Its end is announced, then it is killed, then DVC above it is."""
    uninterrupted = longer_project(built, tmp_path / "uninterrupted" / "project")
    uninterrupted.set_params(RATE)
    uninterrupted.run("python", "-m", "stages.train")
    workspace = longer_project(built, tmp_path / "project")
    root = workspace.root
    lock = (root / "dvc.lock").read_bytes()

    # As Slurm announces it to a command, and the command to the stage.
    with started(workspace, *TRAIN) as command:
        trainer = wait_for_training(root, command, step=5)
        command.send(signal.SIGUSR1)
        code = command.wait()
        assert is_gone(trainer)
    first_step = newest_step(root)
    assert code not in (0, 128 + signal.SIGUSR1), "DVC has ended in order"
    assert f"exited with {128 + signal.SIGUSR1}\n" in command.output
    assert f"stopped by SIGUSR1 after step {first_step:,}; the same" in command.output
    assert "resuming after" not in command.output
    assert (root / "dvc.lock").read_bytes() == lock
    assert workspace.run("git", "stash", "list").stdout == ""
    assert workspace.run("git", "branch", "--show-current").stdout == "main\n"
    discard_edits(workspace)

    # A damaged checkpoint costs the steps since the one before.
    (training,) = list_run_folders(root)
    newest, before = training.checkpoints()
    damaged = training.path_of(newest)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    options = (training.fingerprint[:6], "--precision", "32-true")  # as it was
    with started(workspace, *RESUME, *options) as command:
        wait_for_training(root, command, step=newest.step + 5).kill()
        assert command.wait() != 0
    second_step = newest_step(root)
    assert f"WARNING: {damaged} is damaged" in command.output
    assert_resumed(command.output, before.step)
    discard_edits(workspace)

    # A training that runs is not resumed; it ends with its DVC, and saves its step.
    workspace.set_params(RATE | TRACKED)
    with started(workspace, "dvc", "repro") as command:
        trainer = wait_for_training(root, command, step=second_step + 5)
        trainer.suspend()  # so that it is still there when another command comes
        refused = workspace.run(*RESUME, check=False)
        trainer.resume()
        command.send(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
        wait_until(partial(is_gone, trainer))
    third_step = newest_step(root)
    assert refused.returncode == 2
    running = f"nothing to resume: process {trainer.pid} is still training"
    assert running in refused.stderr
    assert_resumed(command.output, second_step)
    assert "stopping after this step" in command.output
    assert first_step < second_step < third_step
    assert (root / "dvc.lock").read_bytes() == lock

    assert_resumed(workspace.dvc("repro").stdout, third_step)
    assert results_of(root) == results_of(uninterrupted.root)
    assert (root / "dvc.lock").read_bytes() != lock
    assert list_run_folders(root) == []
    run = the_run(root)
    assert (run.status, run.trackers) == ("FINISHED", ["mlflow", "wandb"])
    after = f"stopped by SIGTERM after step {third_step:,}"
    assert run.metadata["resumed.after"] == after


class Prepared(Workspace):
    """A project kept as `ready` to train, and as `interrupted` in an experiment."""

    lock: str  # dvc.lock after a training that nothing interrupted

    def lock_now(self) -> str:
        """Return what DVC has noted as done in the workspace."""
        return (self.root / "dvc.lock").read_text(encoding="utf-8")

    def lock_of_experiment(self, name: str) -> str:
        """Return what DVC has noted as done in an experiment."""
        listing = ("git", "for-each-ref", "--format=%(refname)", "refs/exps")
        refs = self.run(*listing).stdout.split()
        (ref,) = [ref for ref in refs if ref.endswith(f"/{name}")]
        return self.run("git", "show", f"{ref}:dvc.lock").stdout

    def rate_now(self) -> Any:
        """Return the learning rate in params.yaml."""
        params = YAML(typ="safe").load(self.root / "params.yaml")
        return params["train"]["learning_rate"]


@pytest.fixture(scope="module")
def prepared(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    root = tmp_path_factory.mktemp("resume") / "project"
    project = Prepared(longer_project(built, root).root)
    project.keep("ready")
    project.set_params(RATE)
    project.dvc("repro")
    project.lock = project.lock_now()

    project.put_back("ready")
    kill_in_training(project, *EXPERIMENT, step=15)
    discard_edits(project)
    project.keep("interrupted")
    return project


@pytest.mark.chaos
def test_an_experiment_elsewhere_is_resumed_by_the_same_command(
    prepared: Prepared,
) -> None:
    prepared.put_back("ready")
    overrides = [f"-S{key}={value}" for key, value in (RATE | TRACKED).items()]
    command = ["dvc", "exp", "run", "--temp", "--name", "killed", *overrides]
    lock_before = prepared.lock_now()

    step = kill_in_training(prepared, *command)
    done = prepared.run(*command)

    assert_resumed(done.stdout, step)
    assert prepared.lock_of_experiment("killed") == prepared.lock
    assert prepared.lock_now() == lock_before
    assert list_run_folders(prepared.root) == []
    run = the_run(prepared.root)
    assert (run.name, run.status) == ("killed", "FINISHED")


@pytest.mark.chaos
def test_the_queue_resumes_a_killed_training(prepared: Prepared) -> None:
    prepared.put_back("ready")
    queue = (*EXPERIMENT[1:], "--queue")

    try:
        prepared.dvc(*queue)
        with started(prepared, "dvc", "queue", "start") as worker:
            assert worker.wait() == 0
        wait_until(lambda: newest_step(prepared.root))
        (trainer,) = stage_processes(prepared.root, "train")
        trainer.kill()
        wait_until(lambda: "Failed" in prepared.dvc("queue", "status").stdout)
        step = newest_step(prepared.root)
        prepared.dvc(*queue)
        prepared.dvc("queue", "start")
        wait_until(lambda: "Success" in prepared.dvc("queue", "status").stdout)
    finally:
        prepared.dvc("queue", "stop", "--kill", check=False)

    outputs = prepared.root.glob(".dvc/tmp/exps/run/*/*.out")
    assert_resumed("".join(path.read_text() for path in outputs), step)
    assert prepared.lock_of_experiment("by-hand") == prepared.lock
    assert list_run_folders(prepared.root) == []
    assert the_run(prepared.root).status == "FINISHED"


@pytest.mark.chaos
def test_each_of_two_trainings_is_resumed_as_itself(prepared: Prepared) -> None:
    prepared.put_back("interrupted")
    first_step = newest_step(prepared.root)
    prepared.set_params(OTHER_RATE)
    other_step = kill_in_training(prepared, "dvc", "repro", step=first_step + 15)
    discard_edits(prepared)

    no_terminal = prepared.run(*RESUME, check=False)
    first = prepared.run(*RESUME, "by-hand").stdout
    first_rate, first_lock = prepared.rate_now(), prepared.lock_now()
    discard_edits(prepared)
    other = prepared.run(*RESUME).stdout
    other_rate = prepared.rate_now()
    prepared.set_params(RATE)
    again = prepared.dvc("repro").stdout

    assert no_terminal.returncode == 2
    assert "several trainings were interrupted; say which" in no_terminal.stderr
    assert "train.learning_rate 0.004" in no_terminal.stderr
    assert "train.learning_rate 0.005" in no_terminal.stderr
    assert_resumed(first, first_step)
    assert_resumed(other, other_step)
    assert (first_rate, other_rate) == (4e-3, 5e-3)
    assert list_run_folders(prepared.root) == []
    assert "Stage 'train' is cached - skipping run" in again
    assert first_lock == prepared.lock_now() == prepared.lock


@pytest.mark.chaos
def test_only_the_precision_may_change_on_the_way(prepared: Prepared) -> None:
    prepared.put_back("interrupted")
    step = newest_step(prepared.root)
    (prepared.root / "changes.yaml").write_text("seed: 5\n")
    params = (prepared.root / "params.yaml").read_bytes()

    seed = prepared.run(*RESUME, "--config", "changes.yaml", check=False)
    params_then = (prepared.root / "params.yaml").read_bytes()
    precision = prepared.run(*RESUME, "--precision", "bf16-mixed")

    assert seed.returncode == 2
    assert "seed was 1337 and would be 5" in seed.stderr
    assert params_then == params
    assert_resumed(precision.stdout, step)
    assert list_run_folders(prepared.root) == []
    run = the_run(prepared.root)
    assert run.name == "by-hand"
    assert run.metadata["resumed.train.precision"] == "bf16-mixed"
