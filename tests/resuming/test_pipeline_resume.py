"""Training that was killed, and what the same command makes of it, with real DVC."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
from tests.project import Workspace, tiny_project
from toygpt.pipeline.params_file import read_yaml
from toygpt.resuming.run_folder import RunFolder, list_run_folders
from toygpt.tracking.record import RunInfo, all_infos

# Long enough to be killed on the way.
LONGER = {
    "tracking.mlflow": False,
    "tracking.wandb": "disabled",
    "train.max_tokens": 64 * 200,
    "train.validate_every_tokens": 64 * 50,
    "train.dropout": 0.1,
    "train.precision": "32-true",
    "runtime.checkpoint_every_steps": 5,
}
# Nothing is trained with the learning rate that is committed: so it shows if one that
# was interrupted loses its own.
RATE = {"train.learning_rate": 4e-3}
OTHER_RATE = {"train.learning_rate": 5e-3}
TRACKED = {"tracking.mlflow": True, "tracking.wandb": "offline"}
EXPERIMENT = (
    "dvc",
    "exp",
    "run",
    "--name",
    "by-hand",
    "-S",
    "train.learning_rate=0.004",
)


@dataclass
class Prepared:
    """A project in which only training is left to do."""

    workspace: Workspace
    lock: str  # what dvc.lock is after a training that nobody interrupted

    @property
    def root(self) -> Path:
        """The project's folder."""
        return self.workspace.root

    def run(
        self, *command: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return self.workspace.run(*command, check=check)

    def lock_now(self) -> str:
        """Return what DVC has noted as done in the workspace."""
        return (self.root / "dvc.lock").read_text(encoding="utf-8")

    def lock_of_experiment(self, name: str) -> str:
        """Return what DVC has noted as done in an experiment."""
        found = self.run("git", "for-each-ref", "--format=%(refname)", "refs/exps")
        (ref,) = [line for line in found.stdout.split() if line.endswith(f"/{name}")]
        return self.run("git", "show", f"{ref}:dvc.lock").stdout

    def unfinished(self) -> RunFolder:
        """Return the only training that is not finished."""
        (training,) = list_run_folders(self.root)
        return training


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A project kept as `ready` to train, and as `interrupted` in an experiment."""
    workspace = tiny_project(tmp_path_factory.mktemp("resume") / "project")
    workspace.set_params(LONGER)
    forget_later_stages(workspace.root)
    workspace.commit("longer")
    workspace.dvc("repro", "split")
    workspace.commit("the text is ready")
    workspace.keep("ready")

    workspace.set_params(RATE)
    workspace.dvc("repro")
    prepared = Prepared(workspace, (workspace.root / "dvc.lock").read_text())

    workspace.put_back("ready")
    kill_in_training(prepared, *EXPERIMENT, step=15)
    workspace.run("git", "checkout", "--quiet", "--", ".")
    workspace.keep("interrupted")
    return prepared


def forget_later_stages(root: Path) -> None:
    """Let training be the last stage: what comes after it takes longer."""
    yaml = YAML()
    for file in ("dvc.yaml", "dvc.lock"):
        pipeline = yaml.load(root / file)
        for name in ("evaluate", "generate-samples"):
            del pipeline["stages"][name]
        yaml.dump(pipeline, root / file)


@pytest.fixture
def project(prepared: Prepared) -> Prepared:
    """The project before its first training."""
    prepared.workspace.put_back("ready")
    return prepared


@pytest.fixture
def interrupted(prepared: Prepared) -> Prepared:
    """The project with one training that was killed; params.yaml is reset."""
    prepared.workspace.put_back("interrupted")
    return prepared


def as_options(overrides: Mapping[str, object]) -> list[str]:
    """Return the options of DVC that change these parameters."""
    return [
        text for key, value in overrides.items() for text in ("-S", f"{key}={value}")
    ]


def newest_step(root: Path) -> int:
    """Return how far the newest checkpoint of all trainings is."""
    return max(
        (
            checkpoint.step
            for training in list_run_folders(root)
            for checkpoint in training.checkpoints()
        ),
        default=0,
    )


def wait_for_training(
    project: Prepared, command: Command, *, step: int = 5
) -> psutil.Process:
    """Return the process that trains, when it has kept this step or a later one."""
    trainer = wait_for_stage(project.root, "train", beside=command)

    def look() -> bool:
        assert not is_gone(trainer), command.output
        return newest_step(project.root) >= step

    wait_until(look)
    return trainer


def kill_in_training(
    project: Prepared,
    *command: str,
    step: int = 5,
    by: signal.Signals = signal.SIGKILL,
) -> int:
    """Kill the trainer of a command; return the step that it has kept."""
    with started(project.workspace, *command) as first:
        trainer = wait_for_training(project, first, step=step)
        trainer.send_signal(by)
        assert first.wait() != 0
        # Asked to end, it keeps the step at hand first, and has an exit code.
        # Of a killed one, what DVC says depends on the shell between them.
        codes = [-by, 128 + by] if by == signal.SIGKILL else [128 + by]
        assert any(f"exited with {code}\n" in first.output for code in codes)
        assert is_gone(trainer)
    return newest_step(project.root)


def assert_went_on(output: str, step: int) -> None:
    """Check that training went on from where it had been kept."""
    assert step > 0
    assert f"going on after step {step}\n" in output


def the_run(project: Prepared) -> RunInfo:
    """Return what is known of the only run, on which all trackers must agree."""
    assert audit(project.root) == []
    (info,) = [info for _, info in all_infos(project.root)]
    return info


def training_in_queue(project: Prepared) -> psutil.Process | None:
    """Return the process that trains, whoever has started it."""
    processes = stage_processes(project.root, "train")
    return processes[0] if processes else None


@pytest.mark.parametrize(
    "command", ["repro", pytest.param("exp run --temp", marks=pytest.mark.chaos)]
)
def test_the_same_command_goes_on_with_a_killed_training(
    project: Prepared, command: str
) -> None:
    words = ["dvc", *command.split()]
    if command == "repro":
        project.workspace.set_params(RATE | TRACKED)
    else:
        words += ["--name", "killed", *as_options(RATE | TRACKED)]

    step = kill_in_training(project, *words)
    is_temporary = command.endswith("--temp")
    # Until it is evaluated, no number of another model is shown beside the new one.
    numbers = json.loads((project.root / "metrics/evaluate.json").read_text())
    assert bool(numbers) == is_temporary
    done = project.run(*words)

    assert_went_on(done.stdout, step)
    lock = project.lock_of_experiment("killed") if is_temporary else project.lock_now()
    assert lock == project.lock
    assert list_run_folders(project.root) == []
    run = the_run(project)
    assert run.status == "FINISHED"
    assert run.trackers == ["mlflow", "wandb"]
    assert run.name == "killed" or not is_temporary


@pytest.mark.chaos
def test_an_experiment_in_the_workspace_goes_on_likewise(interrupted: Prepared) -> None:
    step = newest_step(interrupted.root)

    done = interrupted.run(*EXPERIMENT)

    assert_went_on(done.stdout, step)
    assert interrupted.lock_of_experiment("by-hand") == interrupted.lock
    assert interrupted.lock_now() == interrupted.lock
    assert list_run_folders(interrupted.root) == []
    assert the_run(interrupted).status == "FINISHED"


@pytest.mark.chaos
def test_the_queue_goes_on_with_a_killed_training(project: Prepared) -> None:
    queue = ("exp", "run", "--queue", "--name", "killed", *as_options(RATE))

    try:
        project.workspace.dvc(*queue)
        with started(project.workspace, "dvc", "queue", "start") as worker:
            assert worker.wait() == 0
        trainer = wait_until(
            lambda: training_in_queue(project) if newest_step(project.root) else None
        )
        trainer.kill()
        wait_until(lambda: "Failed" in project.workspace.dvc("queue", "status").stdout)
        assert is_gone(trainer)
        step = newest_step(project.root)
        project.workspace.dvc(*queue)
        project.workspace.dvc("queue", "start")
        wait_until(lambda: "Success" in project.workspace.dvc("queue", "status").stdout)
    finally:
        project.workspace.dvc("queue", "stop", "--kill", check=False)

    outputs = [
        path.read_text() for path in project.root.glob(".dvc/tmp/exps/run/*/*.out")
    ]
    assert_went_on("".join(outputs), step)
    assert project.lock_of_experiment("killed") == project.lock
    assert list_run_folders(project.root) == []
    assert the_run(project).status == "FINISHED"


def test_an_announced_end_reaches_the_training_and_dvc_ends_in_order(
    project: Prepared,
) -> None:
    """As Slurm announces it to a command, and the command to the stage."""
    before = project.lock_now()

    with started(project.workspace, "python", ".", "train") as command:
        trainer = wait_for_training(project, command)
        command.send(signal.SIGUSR1)
        code = command.wait()
        assert is_gone(trainer)
    step = newest_step(project.root)
    done = project.run("python", ".", "resume")

    assert code not in (0, 128 + signal.SIGUSR1)  # it is DVC that says so
    assert f"stopped by SIGUSR1 after step {step}; the same" in command.output
    assert f"exited with {128 + signal.SIGUSR1}\n" in command.output
    assert project.run("git", "stash", "list").stdout == ""
    assert project.run("git", "branch", "--show-current").stdout == "main\n"
    assert_went_on(done.stdout, step)
    assert project.lock_now() != before
    run = the_run(project)
    assert run.status == "FINISHED"
    assert run.facts["resumed.after"] == f"stopped by SIGUSR1 after step {step}"


@pytest.mark.chaos
def test_a_training_stopped_by_ctrl_c_is_not_done(project: Prepared) -> None:
    before = project.lock_now()

    with started(project.workspace, "dvc", "repro") as command:
        trainer = wait_for_training(project, command)
        command.press_ctrl_c()
        code = command.wait()
        assert is_gone(trainer)

    assert code != 0
    # The shell between them hears Ctrl-C, too; some end by it, once the trainer has.
    assert any(f"exited with {code}\n" in command.output for code in (130, -2))
    assert "stopping after this step" in command.output
    assert project.lock_now() == before
    assert project.unfinished().best_checkpoint() is not None


def test_one_trainer_works_on_a_training_and_ends_with_its_dvc(
    project: Prepared,
) -> None:
    before = project.lock_now()

    with started(project.workspace, "dvc", "repro") as command:
        trainer = wait_for_training(project, command)
        trainer.suspend()  # so that it is still there when the second one comes
        second = project.run("python", "-m", "stages.train", check=False)
        nothing = project.run("python", ".", "resume", check=False)
        assert not is_gone(trainer)
        trainer.resume()
        command.send(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
        wait_until(lambda: is_gone(trainer))

    assert second.returncode == 1
    assert f"running already: process {trainer.pid} works in" in second.stderr
    assert nothing.returncode == 2
    assert f"nothing to resume: process {trainer.pid} is still" in nothing.stderr
    assert "stopping after this step" in command.output
    assert project.lock_now() == before
    assert project.unfinished().best_checkpoint() is not None


@pytest.mark.chaos
def test_each_of_two_trainings_goes_on_with_its_own(interrupted: Prepared) -> None:
    first_step = newest_step(interrupted.root)
    interrupted.workspace.set_params(OTHER_RATE)
    before = interrupted.lock_now()
    other_step = kill_in_training(
        interrupted, "dvc", "repro", step=first_step + 15, by=signal.SIGTERM
    )
    lock_after_kill = interrupted.lock_now()
    interrupted.run("git", "checkout", "--quiet", "--", ".")

    nobody_there = interrupted.run("python", ".", "resume", check=False)
    first = resume_at_a_terminal(interrupted, "by-hand")
    first_params = read_yaml(interrupted.root / "params.yaml")
    first_lock = interrupted.lock_now()
    interrupted.run("git", "checkout", "--quiet", "--", ".")
    other = interrupted.run("python", ".", "resume").stdout
    other_params = read_yaml(interrupted.root / "params.yaml")
    interrupted.workspace.set_params(RATE)
    again = interrupted.workspace.dvc("repro").stdout

    assert lock_after_kill == before
    assert nobody_there.returncode == 2
    assert "several trainings were interrupted; say which" in nobody_there.stderr
    assert "train.learning_rate 0.004" in nobody_there.stderr
    assert "train.learning_rate 0.005" in nobody_there.stderr
    assert_went_on(first, first_step)
    assert_went_on(other, other_step)
    assert first_params["train"]["learning_rate"] == 4e-3
    assert other_params["train"]["learning_rate"] == 5e-3
    assert first_lock == interrupted.lock
    assert list_run_folders(interrupted.root) == []
    assert "Stage 'train' is cached - skipping run" in again
    assert interrupted.lock_now() == interrupted.lock


def resume_at_a_terminal(project: Prepared, name: str) -> str:
    """Answer the question which training is to go on; return all that was said."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["python", ".", "resume"],
        cwd=project.root,
        env=project.workspace.environment,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = ""
        while "which one? [number] " not in said:
            said += process.stdout.read(1)
            assert process.poll() is None, said
        (number,) = [line.split()[0] for line in said.splitlines() if name in line]
        os.write(ours, f"{number}\n".encode())
        said += process.stdout.read()
        assert process.wait() == 0, said
    os.close(ours)
    os.close(theirs)
    return said


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    interrupted: Prepared,
) -> None:
    training = interrupted.unfinished()
    newest, before = training.checkpoints()
    with training.path_of(newest).open("r+b") as file:
        file.seek(newest.bytes // 2)
        file.write(b"\xff\x00\xff\x00")
    options = ("--precision", "32-true", "--wnb", "disabled")  # as it was

    done = interrupted.run("python", ".", "resume", training.fingerprint[:6], *options)

    assert f"WARNING: {training.path_of(newest)} is damaged" in done.stderr
    assert_went_on(done.stdout, before.step)
    assert before.step < newest.step
    assert interrupted.lock_now() == interrupted.lock


@pytest.mark.chaos
def test_only_the_precision_may_change_on_the_way(interrupted: Prepared) -> None:
    step = newest_step(interrupted.root)
    (interrupted.root / "changes.yaml").write_text("seed: 5\n")
    params = (interrupted.root / "params.yaml").read_bytes()

    seed = interrupted.run(
        *("python", ".", "resume", "--config", "changes.yaml"), check=False
    )
    params_then = (interrupted.root / "params.yaml").read_bytes()
    precision = interrupted.run("python", ".", "resume", "--precision", "bf16-mixed")

    assert seed.returncode == 2
    assert "seed was 1337 and would be 5" in seed.stderr
    assert params_then == params
    assert_went_on(precision.stdout, step)
    assert list_run_folders(interrupted.root) == []
    run = the_run(interrupted)
    assert run.name == "by-hand"
    assert run.facts["resumed.train.precision"] == "bf16-mixed"


@pytest.mark.chaos
def test_with_other_code_it_is_another_training(interrupted: Prepared) -> None:
    with (interrupted.root / "toygpt/model/gpt.py").open("a") as file:
        file.write("# changed\n")

    done = interrupted.run("python", ".", "resume", "by-hand", check=False)

    assert done.returncode not in (0, 2)
    assert "this is not the training that was interrupted" in done.stderr
    assert "toygpt/model/gpt.py was " in done.stderr
    assert interrupted.unfinished().best_checkpoint() is not None


@pytest.mark.chaos
def test_fresh_starts_over(interrupted: Prepared) -> None:
    assert newest_step(interrupted.root) > 0

    done = interrupted.run(
        *("python", ".", "train", "--lr", "4e-3", "--name", "by-hand", "--fresh")
    )

    assert "going on after" not in done.stdout
    assert interrupted.lock_now() == interrupted.lock
    assert list_run_folders(interrupted.root) == []
