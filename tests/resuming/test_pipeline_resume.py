"""Trainings that were killed, and how the same command resumes them, with real DVC."""

import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    stage_processes,
    started,
    wait_for_stage,
    wait_until,
)
from tests.project import Workspace
from toygpt.model.huggingface import weights_digest
from toygpt.pipeline.files import sha256_of
from toygpt.resuming.run_folder import list_run_folders
from toygpt.tracking.record import RunInfo, all_infos

pytestmark = pytest.mark.slow

# Long enough to be killed three times on the way.
LONGER = {
    "tracking.mlflow": False,
    "tracking.wandb": "disabled",
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
EXPERIMENT = (
    "dvc",
    "exp",
    "run",
    "--name",
    "by-hand",
    "-S",
    "train.learning_rate=0.004",
)


def longer_project(
    built: Workspace, root: Path, changes: Mapping[str, Any] | None = None
) -> Workspace:
    """Return a copy of the tiny project in which only training is left to do."""
    workspace = built.copy_to(root)
    workspace.set_params({**LONGER, **(changes or {})})
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


def newest_step(root: Path) -> int:
    """Return the step of the newest checkpoint of all trainings."""
    return max(
        (
            checkpoint.step
            for training in list_run_folders(root)
            for checkpoint in training.checkpoints()
        ),
        default=0,
    )


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


def results(root: Path) -> dict[str, str]:
    """Return the digests of the files that a training writes."""
    files = [root / "metrics/train.json", *(root / "reports/train").iterdir()]
    digests = {path.name: sha256_of(path) for path in files}
    return {"weights": weights_digest(root / "models/toygpt"), **digests}


@dataclass
class History:
    """A training that was ended three times, and then resumed to its end."""

    root: Path
    expected: dict[str, str]  # results of a training that nothing interrupts
    dvc_lock: list[str] = field(default_factory=list)  # after each end
    steps: list[int] = field(default_factory=list)  # the newest checkpoint then
    outputs: list[str] = field(default_factory=list)  # of each command
    announced_code: int = 0
    branch: str = ""
    stash: str = ""
    refused: subprocess.CompletedProcess[str] | None = None
    trainer: int = 0
    dvc_code: int = 0
    damaged: Path = Path()
    step_before_damaged: int = 0


@pytest.fixture(scope="module")
def history(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> History:
    """Announce its end to a training, kill it, and DVC above it; then finish it."""
    folder = tmp_path_factory.mktemp("history")
    uninterrupted = longer_project(built, folder / "uninterrupted" / "project", RATE)
    uninterrupted.run("python", "-m", "stages.train")
    workspace = longer_project(built, folder / "project")
    root = workspace.root
    history = History(root, results(uninterrupted.root))

    def end(output: str) -> None:
        history.outputs.append(output)
        history.steps.append(newest_step(root))
        history.dvc_lock.append((root / "dvc.lock").read_text(encoding="utf-8"))

    history.dvc_lock.append((root / "dvc.lock").read_text(encoding="utf-8"))
    with started(workspace, *TRAIN) as command:
        trainer = wait_for_training(root, command, step=5)
        command.send(signal.SIGUSR1)
        history.announced_code = command.wait()
        assert is_gone(trainer)
        end(command.output)
    history.stash = workspace.run("git", "stash", "list").stdout
    history.branch = workspace.run("git", "branch", "--show-current").stdout
    discard_edits(workspace)

    (training,) = list_run_folders(root)
    newest, before = training.checkpoints()
    history.damaged = training.path_of(newest)
    history.step_before_damaged = before.step
    with history.damaged.open("r+b") as file:
        file.seek(newest.bytes // 2)
        file.write(b"\xff\x00\xff\x00")
    options = (training.fingerprint[:6], "--precision", "32-true")  # as it was
    with started(workspace, "python", ".", "resume", *options) as command:
        trainer = wait_for_training(root, command, step=newest.step + 5)
        trainer.kill()
        assert command.wait() != 0
        end(command.output)
    discard_edits(workspace)

    workspace.set_params(RATE | TRACKED)
    with started(workspace, "dvc", "repro") as command:
        trainer = wait_for_training(root, command, step=history.steps[-1] + 5)
        trainer.suspend()  # so that it is still there when another command comes
        history.trainer = trainer.pid
        history.refused = workspace.run("python", ".", "resume", check=False)
        trainer.resume()
        command.send(signal.SIGKILL)
        history.dvc_code = command.wait()
        wait_until(partial(is_gone, trainer))
        end(command.output)

    end(workspace.dvc("repro").stdout)
    return history


def test_a_training_ended_three_times_has_the_results_of_an_uninterrupted_one(
    history: History,
) -> None:
    assert results(history.root) == history.expected
    assert list_run_folders(history.root) == []
    assert len(set(history.steps[:3])) == 3, "it was ended at three different steps"


def test_each_command_resumes_where_the_one_before_was_ended(history: History) -> None:
    first, second, third, last = history.outputs

    assert "resuming after" not in first
    assert_resumed(second, history.step_before_damaged)
    assert_resumed(third, history.steps[1])
    assert_resumed(last, history.steps[2])


def test_an_announced_end_reaches_the_training_and_dvc_ends_in_order(
    history: History,
) -> None:
    """As Slurm announces it to a command, and the command to the stage."""
    usr1 = signal.SIGUSR1
    step = history.steps[0]

    assert history.announced_code not in (0, 128 + usr1)  # that of DVC
    assert f"stopped by SIGUSR1 after step {step:,}; the same" in history.outputs[0]
    assert f"exited with {128 + usr1}\n" in history.outputs[0]
    assert history.stash == ""
    assert history.branch == "main\n"


def test_dvc_takes_no_interrupted_training_for_done(history: History) -> None:
    before, *interrupted, done = history.dvc_lock

    assert interrupted == [before] * 3
    assert done != before


def test_a_training_that_runs_is_not_resumed_a_second_time(history: History) -> None:
    assert history.refused is not None
    assert history.refused.returncode == 2
    running = f"nothing to resume: process {history.trainer} is still training"
    assert running in history.refused.stderr


def test_a_training_ends_with_its_dvc_and_saves_its_step(history: History) -> None:
    assert history.dvc_code == -signal.SIGKILL
    assert "stopping after this step" in history.outputs[2]
    assert history.steps[2] > history.steps[1]


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    history: History,
) -> None:
    assert f"WARNING: {history.damaged} is damaged" in history.outputs[1]
    assert 0 < history.step_before_damaged < history.steps[0]


def test_the_trackers_have_one_whole_run_of_it(history: History) -> None:
    run = the_run(history.root)

    assert run.status == "FINISHED"
    assert run.trackers == ["mlflow", "wandb"]
    assert run.metadata["resumed.after"] == (
        f"stopped by SIGTERM after step {history.steps[2]:,}"
    )


@dataclass
class Prepared:
    """A project kept as `ready` to train, and as `interrupted` in an experiment."""

    workspace: Workspace
    root: Path
    lock: str  # dvc.lock after a training that nothing interrupted

    def lock_now(self) -> str:
        """Return what DVC has noted as done in the workspace."""
        return (self.root / "dvc.lock").read_text(encoding="utf-8")

    def lock_of_experiment(self, name: str) -> str:
        """Return what DVC has noted as done in an experiment."""
        listing = ("git", "for-each-ref", "--format=%(refname)", "refs/exps")
        refs = self.workspace.run(*listing).stdout.split()
        (ref,) = [ref for ref in refs if ref.endswith(f"/{name}")]
        return self.workspace.run("git", "show", f"{ref}:dvc.lock").stdout


@pytest.fixture(scope="module")
def prepared(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    workspace = longer_project(built, tmp_path_factory.mktemp("resume") / "project")
    workspace.keep("ready")
    workspace.set_params(RATE)
    workspace.dvc("repro")
    lock = (workspace.root / "dvc.lock").read_text()

    workspace.put_back("ready")
    kill_in_training(workspace, *EXPERIMENT, step=15)
    discard_edits(workspace)
    workspace.keep("interrupted")
    return Prepared(workspace, workspace.root, lock)


@pytest.mark.chaos
def test_an_experiment_elsewhere_is_resumed_by_the_same_command(
    prepared: Prepared,
) -> None:
    prepared.workspace.put_back("ready")
    overrides = [f"-S{key}={value}" for key, value in (RATE | TRACKED).items()]
    command = ["dvc", "exp", "run", "--temp", "--name", "killed", *overrides]
    lock_before = prepared.lock_now()

    step = kill_in_training(prepared.workspace, *command)
    done = prepared.workspace.run(*command)

    assert_resumed(done.stdout, step)
    assert prepared.lock_of_experiment("killed") == prepared.lock
    assert prepared.lock_now() == lock_before
    assert list_run_folders(prepared.root) == []
    run = the_run(prepared.root)
    assert (run.name, run.status) == ("killed", "FINISHED")


@pytest.mark.chaos
def test_the_queue_resumes_a_killed_training(prepared: Prepared) -> None:
    workspace = prepared.workspace
    workspace.put_back("ready")
    queue = (*EXPERIMENT[1:], "--queue")

    try:
        workspace.dvc(*queue)
        with started(workspace, "dvc", "queue", "start") as worker:
            assert worker.wait() == 0
        wait_until(lambda: newest_step(prepared.root))
        (trainer,) = stage_processes(prepared.root, "train")
        trainer.kill()
        wait_until(lambda: "Failed" in workspace.dvc("queue", "status").stdout)
        step = newest_step(prepared.root)
        workspace.dvc(*queue)
        workspace.dvc("queue", "start")
        wait_until(lambda: "Success" in workspace.dvc("queue", "status").stdout)
    finally:
        workspace.dvc("queue", "stop", "--kill", check=False)

    outputs = prepared.root.glob(".dvc/tmp/exps/run/*/*.out")
    assert_resumed("".join(path.read_text() for path in outputs), step)
    assert prepared.lock_of_experiment("by-hand") == prepared.lock
    assert list_run_folders(prepared.root) == []
    assert the_run(prepared.root).status == "FINISHED"


@pytest.mark.chaos
def test_each_of_two_trainings_is_resumed_as_itself(prepared: Prepared) -> None:
    workspace = prepared.workspace
    workspace.put_back("interrupted")
    first_step = newest_step(prepared.root)
    workspace.set_params(OTHER_RATE)
    other_step = kill_in_training(workspace, "dvc", "repro", step=first_step + 15)
    discard_edits(workspace)

    no_terminal = workspace.run("python", ".", "resume", check=False)
    first = workspace.run("python", ".", "resume", "by-hand").stdout
    first_rate = learning_rate_now(prepared.root)
    first_lock = prepared.lock_now()
    discard_edits(workspace)
    other = workspace.run("python", ".", "resume").stdout
    other_rate = learning_rate_now(prepared.root)
    workspace.set_params(RATE)
    again = workspace.dvc("repro").stdout

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


def learning_rate_now(root: Path) -> Any:
    return YAML(typ="safe").load(root / "params.yaml")["train"]["learning_rate"]


@pytest.mark.chaos
def test_only_the_precision_may_change_on_the_way(prepared: Prepared) -> None:
    prepared.workspace.put_back("interrupted")
    step = newest_step(prepared.root)
    (prepared.root / "changes.yaml").write_text("seed: 5\n")
    params = (prepared.root / "params.yaml").read_bytes()
    resume = ("python", ".", "resume")

    seed = prepared.workspace.run(*resume, "--config", "changes.yaml", check=False)
    params_then = (prepared.root / "params.yaml").read_bytes()
    precision = prepared.workspace.run(*resume, "--precision", "bf16-mixed")

    assert seed.returncode == 2
    assert "seed was 1337 and would be 5" in seed.stderr
    assert params_then == params
    assert_resumed(precision.stdout, step)
    assert list_run_folders(prepared.root) == []
    run = the_run(prepared.root)
    assert run.name == "by-hand"
    assert run.metadata["resumed.train.precision"] == "bf16-mixed"
