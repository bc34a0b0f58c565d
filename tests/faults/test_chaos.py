"""Real runs, killed at fifty moments: the same command always completes them."""

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Thread

import psutil
import pytest

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
from tests.project import Workspace, tiny_project
from tests.tracking.mlflow.server import Server, audit_at, running_server
from toygpt.resuming.run_folder import list_run_folders
from toygpt.tracking.mlflow.database import DATABASE, create_database
from toygpt.tracking.record import Record
from toygpt.tracking.run_info import all_infos

pytestmark = pytest.mark.chaos

SEED = 1
NUM_KILLS = 50
# When one of these was killed, DVC restores the outputs of later stages from its cache:
# it can, if and only if these made the outputs that they should.
DATA_STAGES = ["download", "tokenize", "split"]
STAGES = [*DATA_STAGES, "train", "evaluate", "generate_samples"]
VICTIMS = ["dvc", "stage", "both"]
MOST_TRIES = 2
# DVC's messages when an experiment runs, and when another DVC was in its way.
READY = "Reproducing experiment"
LOCKED = "Unable to acquire lock"
# Its messages after it was killed while it wrote one of its own files, for it writes
# them in their place. From then on it says so to every command.
TORN = ["Unable to read RWLock-file", "'./dvc.lock' validation failed", "join() arg"]
# Long enough that most kills of training come between two checkpoints.
LONGER = {
    "train.max_tokens": 64 * 150,
    "train.dropout": 0.1,
    "train.validate_every_tokens": 64 * 25,
    "runtime.checkpoint_every_steps": 7,
}


@dataclass
class Kill:
    """A signal to a `dvc repro`, and its consequences."""

    number: int
    stage: str
    victim: str
    signal: str
    moment: float  # seconds after the stage began
    usual_seconds: float  # that the stage takes when nothing happens
    attempts: int = 1  # until the signal came before the end
    exit_code: int = 0  # of the DVC that was killed
    orphan_seconds: float = 0.0  # that a stage outlived its DVC
    found: str = ""  # the stages that ran at that moment
    tries: int = 0  # of the same command, until it was done
    doctor_fixed: str = ""  # an error of DVC that the doctor had to fix
    resumed_after: str = ""  # the step of a training


class Chaos:
    """A project, kept as it is when each stage is about to run for the first time."""

    def __init__(self, folder: Path) -> None:
        self.workspace = tiny_project(folder / "project")
        self.root = self.workspace.root
        self.workspace.set_params(LONGER)
        (self.root / "dvc.lock").unlink()
        self.workspace.commit("nothing has run")
        self.usual_seconds: dict[str, float] = {}

        self.workspace.keep("nothing")
        with started(self.workspace, "dvc", "repro") as command:
            for stage in STAGES:
                process = wait_for_stage(self.root, stage, beside=command)
                begun = time.monotonic()
                wait_until(partial(is_gone, process))
                self.usual_seconds[stage] = time.monotonic() - begun
            assert command.wait() == 0, command.output
        self.lock = (self.root / "dvc.lock").read_bytes()

        cache = self.root / ".dvc/cache"
        self._forget_runs(DATA_STAGES)
        cache.rename(folder / "cache")
        self.workspace.put_back("nothing")
        shutil.copytree(folder / "cache", cache)
        for stage in STAGES:
            if stage == "train":
                self._forget_runs(STAGES)
            self.workspace.keep(stage)
            if stage != STAGES[-1]:
                self.workspace.dvc("repro", stage)

    def _forget_runs(self, stages: list[str]) -> None:
        """Remove the results of these stages from DVC's cache of runs."""
        for folder in (self.root / ".dvc/cache/runs").glob("*/*"):
            (path,) = folder.iterdir()
            command, *_ = path.read_text().splitlines()
            if command.removeprefix("cmd: python -m stages.") in stages:
                shutil.rmtree(folder)  # left empty, DVC would stumble over it


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Chaos:
    """A project, and its `dvc.lock` after a run that nothing interrupts."""
    return Chaos(tmp_path_factory.mktemp("chaos"))


def draw(number: int, usual_seconds: dict[str, float]) -> Kill:
    """Return one of the kills: all stages and victims in turn, the rest random."""
    chance = random.Random(f"{SEED}-{number}")
    stage = STAGES[number % len(STAGES)]
    (name,) = chance.choices(["SIGKILL", "SIGTERM", "SIGINT"], [6, 2, 1])
    # While a stage runs, DVC heeds no Ctrl-C: a terminal sends it to both.
    victim = "both" if name == "SIGINT" else VICTIMS[number // len(STAGES) % 3]
    # A little beyond the end: then DVC is at work itself, or the next stage begins.
    moment = chance.uniform(0, 1.1) * usual_seconds[stage]
    return Kill(number, stage, victim, name, moment, usual_seconds[stage])


def strike(kill: Kill, command: Command, root: Path) -> None:
    """Wait for the moment, send the signal, and see DVC end."""
    wait_for_stage(root, kill.stage, beside=command)
    time.sleep(kill.moment)  # the moment was drawn: there is no state to wait for
    stages = stage_processes(root)
    kill.found = " ".join(process.cmdline()[-1] for process in stages)
    if not stages and kill.victim == "stage":
        kill.victim = "dvc"  # between two stages there is only DVC
    if kill.signal == "SIGINT":
        if command.is_running:
            command.press_ctrl_c()
    else:
        number = signal.Signals[kill.signal]
        if kill.victim != "stage":
            command.send(number)
        if kill.victim != "dvc":
            for process in stages:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
    kill.exit_code = command.wait()
    Thread(target=watch_orphans, args=(kill, stages), daemon=True).start()


def watch_orphans(kill: Kill, stages: list[psutil.Process]) -> None:
    """Note how long stages outlive their DVC."""
    begun = time.monotonic()
    for process in stages:
        wait_until(partial(is_gone, process))
        kill.orphan_seconds = round(time.monotonic() - begun, 2)


def repeat(kill: Kill, chaos: Chaos) -> str:
    """Give the command again until it is done; return its output."""
    said = ""
    while kill.tries < MOST_TRIES:
        kill.tries += 1
        done = chaos.workspace.dvc("repro", check=False)
        said += done.stdout + done.stderr
        if done.returncode == 0:
            break
        if torn := [text for text in TORN if text in done.stderr]:
            kill.doctor_fixed = torn[0]
            chaos.workspace.run("python", ".", "doctor", "--fix", check=False)
    else:
        raise AssertionError(said)
    kill.resumed_after = "".join(re.findall("^resuming after (.*)", said, re.M))
    return said


def report(kill: Kill) -> None:
    """Append the kill to the file that TOYGPT_CHAOS_REPORT names, if any."""
    if path := os.environ.get("TOYGPT_CHAOS_REPORT"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(kill)) + "\n")


@pytest.mark.parametrize("number", range(NUM_KILLS))
def test_the_same_command_completes_a_killed_run(chaos: Chaos, number: int) -> None:
    kill = draw(number, chaos.usual_seconds)
    while True:
        chaos.workspace.put_back(kill.stage)
        with started(chaos.workspace, "dvc", "repro") as command:
            strike(kill, command, chaos.root)
            if kill.exit_code != 0:
                said = repeat(kill, chaos)
                break
        # It came too late, this machine being quicker now: nothing was proved.
        kill.attempts += 1
        assert kill.attempts < 10, "the signal does nothing"
        kill.moment *= 0.8
    report(kill)

    assert (chaos.root / "dvc.lock").read_bytes() == chaos.lock, said
    assert list_run_folders(chaos.root) == []
    assert temporaries(chaos.root) == []
    assert stage_processes(chaos.root) == []
    assert audit(chaos.root) == []
    statuses = {info.status for _, info in all_infos(chaos.root)}
    assert statuses == (set() if kill.stage in DATA_STAGES else {"FINISHED"})


@pytest.mark.parametrize("place", ["database", "server"])
def test_of_four_parallel_experiments_two_are_killed_and_nothing_is_lost(
    tmp_path: Path, place: str
) -> None:
    """They share all stages but training: DVC's run cache may fail two writers.

    MLflow has a database in the project, or a server.
    """
    with ExitStack() as stack:
        workspace = tiny_project(tmp_path / "project")
        server = None
        if place == "server":
            server = stack.enter_context(new_server(tmp_path / "server"))
            workspace.environment["MLFLOW_TRACKING_URI"] = server.address
        run_four_experiments(workspace)
        check_trackers(workspace, server)


@contextmanager
def new_server(folder: Path) -> Iterator[Server]:
    """Run an MLflow server that has nothing yet."""
    (folder / ".toygpt").mkdir(parents=True)
    create_database(folder)
    (folder / "files").mkdir()
    with running_server(folder / "files", folder / DATABASE) as server:
        yield server


def run_four_experiments(workspace: Workspace) -> None:
    """Run them at the same time, kill two, and run these again until all have ended."""
    # Long enough that all of them still train when the second one is killed.
    workspace.set_params({**LONGER, "train.max_tokens": 64 * 1500})
    workspace.dvc("repro", "split")
    workspace.commit("the text is ready")
    commands = {
        f"rate-{rate}": (
            *("dvc", "exp", "run", "--temp", "--name", f"rate-{rate}"),
            *("-S", f"train.learning_rate={rate}"),
        )
        for rate in (0.001, 0.002, 0.003, 0.004)
    }

    with ExitStack() as stack:

        def start(name: str) -> Command:
            command = stack.enter_context(started(workspace, *commands[name]))
            # Until then DVC keeps a lock that no other may want.
            wait_until(lambda: READY in command.output or not command.is_running)
            return command

        running = {name: start(name) for name in commands}
        steps = {}
        for name in ("rate-0.002", "rate-0.003"):
            trainer = wait_until(partial(trainer_of, workspace.root, name))
            wait_until(partial(newest_step, workspace.root, name))
            trainer.kill()
            assert running[name].wait() != 0
            assert is_gone(trainer)
            steps[name] = newest_step(workspace.root, name)
        running |= {name: start(name) for name in steps}
        for name, command in running.items():
            last, said = command, ""
            while last.wait() != 0:
                assert LOCKED in last.output, last.output
                said += last.output
                last = start(name)
            if name in steps:
                assert f"resuming after step {steps[name]}\n" in said + last.output

    infos = [info for _, info in all_infos(workspace.root)]
    assert sorted(info.name for info in infos) == sorted(commands)
    assert {info.status for info in infos} == {"FINISHED"}
    assert list_run_folders(workspace.root) == []
    assert temporaries(workspace.root) == []


def check_trackers(workspace: Workspace, server: Server | None) -> None:
    """Check that both trackers have every run once and whole."""
    for folder, info in all_infos(workspace.root):
        record = Record(folder)
        results = {name for p in record.points if p.step is None for name in p.metrics}
        assert "test_bits_per_byte" in results
        mlflow = f"mlflow:{server.address}" if server else "mlflow"
        assert info.trackers == [mlflow, "wandb"]
        assert server is None or audit_at(server, record) == []
    assert audit(workspace.root) == []


def trainer_of(root: Path, name: str) -> psutil.Process | None:
    """Return the process that trains in an experiment of this name."""
    for process in stage_processes(root, "train"):
        with suppress(psutil.NoSuchProcess):
            if process.environ().get("DVC_EXP_NAME") == name:
                return process
    return None


def temporaries(root: Path) -> list[Path]:
    return [path for path in root.rglob(".*.tmp") if ".git" not in path.parts]
