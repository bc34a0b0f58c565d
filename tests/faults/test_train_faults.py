"""The train stage, killed and starved at every moment, ends with the same weights."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import omegaconf  # noqa: F401  (torch loads it late: here once, not in every fork)
import pytest
import torch

from stages import download, split, tokenize, train
from tests.faults.faults import Effect, Ended, Fault, Workbench, name_of
from tests.project import tiny_project
from toygpt.model.huggingface import weights_digest
from toygpt.pipeline import paths
from toygpt.pipeline.files import sha256_of, write_text
from toygpt.pipeline.stage import run
from toygpt.resuming import run_folder
from toygpt.resuming.checkpoint import Checkpoint
from toygpt.resuming.run_folder import RunFolder, list_run_folders

pytestmark = pytest.mark.slow

# Six steps with dropout, in the middle of epochs, and a checkpoint at every second.
PARAMS: dict[str, Any] = {
    "corpus": "files",
    "tokenize.vocab_size": 260,
    "models.nano.block_size": 4,
    "train.batch_size": 4,
    "train.max_tokens": 6 * 16,
    "train.warmup_tokens": 0,
    "train.decay_tokens": 32,
    "train.validate_every_tokens": 3 * 16,
    "train.validation_tokens": 64,
    "train.dropout": 0.1,
    "runtime.micro_batch_size": 3,
    "runtime.checkpoint_every_steps": 2,
    "tracking.mlflow": False,
    "tracking.wandb": "disabled",
}
NUM_CHECKPOINTS = 3
NEVER = 10**9
WRITE = "write step-N.ckpt"
# A checkpoint consists of hundreds of writes; other tests take some of them.
ANY_BUT_REMOVE = r"(?!remove|write step|flush [^.]+$).*"  # nor a flush of a folder
OUTPUTS = ("models", "reports", "metrics/train.json", ".toygpt")


class Moment(NamedTuple):
    """A moment while a checkpoint is saved, to be killed at."""

    point: str
    effect: Effect = "kill before"
    per_checkpoint: int = 1  # so many calls belong to each checkpoint
    # Calls before the first checkpoint: LATEST.json and training.json are written when
    # training starts, and the folder that holds them is flushed each time.
    at_start: int = 0
    which: int = 0  # of the calls for one checkpoint


# Every change of a file that saves a checkpoint, in order; `-1` is counted at run time.
MOMENTS = [
    Moment("open step-N.ckpt"),
    Moment(WRITE, per_checkpoint=-1),
    Moment(WRITE, "kill half way", per_checkpoint=-1, which=150),
    Moment("flush step-N.ckpt"),
    Moment("rename step-N.ckpt"),
    Moment("flush training", per_checkpoint=2, at_start=2),
    Moment("open LATEST.json", at_start=1),
    Moment("write LATEST.json", at_start=1),
    Moment("write LATEST.json", "kill half way", at_start=1),
    Moment("flush LATEST.json", at_start=1),
    Moment("rename LATEST.json", at_start=1),
    Moment("flush training", per_checkpoint=2, at_start=2, which=1),
]
FIRST_AND_LAST = (0, 2)  # of the three checkpoints; the last one replaces the first
OTHER_KILLS = [
    Fault("remove step-N.ckpt", 1, "kill before"),
    Fault("remove step-N.ckpt", 1, "kill after"),
    Fault("make models", 1, "kill before"),
    Fault("rename toygpt", 1, "kill before"),
    Fault("write train.csv", 1, "kill half way"),
    Fault("rename train.json", 1, "kill after"),
    Fault("rename training", 1, "kill before"),
    Fault("rename training", 1, "kill after"),
    Fault("remove LATEST.json", 1, "kill after"),
]


def prepare() -> None:
    """Run the stages before `train`."""
    for stage in (download, tokenize, split):
        run(stage.main)


def real() -> None:
    """Run the train stage."""
    run(train.main)


class Naive(RunFolder):
    """The way that one writes first: a file overwritten in its place, and trusted."""

    def save(self, step: int, checkpoint: dict[str, Any]) -> None:
        """Write over the checkpoint before."""
        with (self.folder / "last.ckpt").open("wb") as file:
            torch.save(checkpoint, file)

    def best_checkpoint(self) -> Checkpoint | None:
        """Return the file that is there."""
        return Checkpoint(0, "", 0) if (self.folder / "last.ckpt").exists() else None

    def path_of(self, checkpoint: Checkpoint) -> Path:
        """Return its path."""
        return self.folder / "last.ckpt"


def naive() -> None:
    """Run the train stage with naive checkpoints."""
    run_folder.RunFolder = Naive  # type: ignore[misc]
    run(train.main)


class Training:
    """The train stage of a project, and its results if nothing goes wrong."""

    def __init__(self, bench: Workbench, root: Path) -> None:
        self.bench = bench
        self.root = root
        whole = self.run(Fault(WRITE, NEVER, "no room"))
        assert (whole.code, whole.fired) == (0, []), whole.output
        assert whole.num_calls is not None
        self.writes_per_checkpoint, rest = divmod(whole.num_calls, NUM_CHECKPOINTS)
        assert self.writes_per_checkpoint > 150 and not rest
        self.expected = self.results()

    def run(
        self,
        fault: Fault | None = None,
        environment: Mapping[str, str] | None = None,
        function: str = "real",
    ) -> Ended:
        """Train, or continue."""
        return self.bench.run(function, self.root, fault, environment)

    def break_by(
        self, fault: Fault, environment: Mapping[str, str] | None = None
    ) -> Ended:
        """Train until the fault comes, which harms no checkpoint."""
        ended = self.run(fault, environment)
        assert ended.fired
        if fault.effect == "no room":
            check_message(ended)
        else:
            assert (ended.code, len(ended.fired)) == (-9, 1), ended.output
        self.check_what_is_kept()
        return ended

    def check_what_is_kept(self) -> None:
        """Every checkpoint that counts is whole, and there are two at most."""
        for folder in list_run_folders(self.root):
            checkpoints = folder.checkpoints()
            assert len(checkpoints) <= 2
            assert not [entry for entry in checkpoints if folder.damage_of(entry)]

    def complete(self, environment: Mapping[str, str] | None = None) -> str:
        """Train to the end, with the results of a whole training; return the output."""
        ended = self.run(environment=environment)
        assert ended.code == 0, ended.output
        assert self.results() == self.expected
        return ended.output

    def results(self) -> dict[str, str]:
        """Return the digest of everything that a finished training has written."""
        found = {"weights": weights_digest(self.root / paths.MODEL)}
        reports = (self.root / paths.TRAIN_REPORT).iterdir()
        for path in [*reports, self.root / "metrics/train.json"]:
            found[path.name] = sha256_of(path)
        assert list_run_folders(self.root) == []
        assert self.leftovers() == []
        return found

    def leftovers(self) -> list[Path]:
        """Return everything that was begun and not finished."""
        return [p for name in OUTPUTS for p in (self.root / name).rglob(".*.tmp")]

    def forget(self) -> None:
        """Remove everything that was trained."""
        for path in [self.root / name for name in OUTPUTS]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Training]:
    """A project that was trained once, and nothing interrupted it."""
    workspace = tiny_project(tmp_path_factory.mktemp("faults") / "project")
    workspace.set_params(PARAMS)
    (workspace.root / "dvc.lock").unlink()  # to read it would be half of each run
    for number in range(12):
        text = f"def number_{number}(self):\n    return {number**9}\n" * 2
        write_text(workspace.root / "texts" / str(number) / "a.txt", text)
    with Workbench(__name__) as bench:
        ended = bench.run("prepare", workspace.root)
        assert ended.code == 0, ended.output
        yield Training(bench, workspace.root)


@pytest.fixture
def training(trained: Training) -> Training:
    """The project, not trained yet."""
    trained.forget()
    return trained


def check_message(ended: Ended) -> None:
    """The file that found no room is named, without a traceback.

    Of files that other libraries write into a folder, the folder is named.
    """
    assert ended.code == 1, ended.output
    message = re.search(r"^error: no room left for (.*): make room", ended.output, re.M)
    assert message, ended.output
    named = name_of(Path(message[1]))
    names = [point.partition(" ")[2] for point in ended.fired]
    assert (
        named in names
        or ended.fired[0].startswith("flush")  # of a folder, after a file in it
        or (named == "toygpt" and names[0].endswith((".json", ".txt")))
    ), ended
    assert "Traceback" not in ended.output


@pytest.mark.parametrize("number", FIRST_AND_LAST)
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda m: f"{m.effect} {m.point}")
def test_a_training_killed_while_it_saves_ends_as_if_it_had_not_been(
    training: Training, moment: Moment, number: int
) -> None:
    per_checkpoint = moment.per_checkpoint
    if per_checkpoint < 0:
        per_checkpoint = training.writes_per_checkpoint
    call = moment.at_start + per_checkpoint * number + moment.which + 1

    training.break_by(Fault(moment.point, call, moment.effect))

    training.complete()


@pytest.mark.parametrize("fault", OTHER_KILLS, ids=str)
def test_a_training_killed_later_ends_as_if_it_had_not_been(
    training: Training, fault: Fault
) -> None:
    training.break_by(fault)

    training.complete()


def test_a_disk_that_is_full_at_any_write_costs_no_step(training: Training) -> None:
    """Full at the first change of a file, then at the second, until it passes."""
    number = 0
    while True:
        number += 1
        ended = training.run(Fault(ANY_BUT_REMOVE, number, "no room"))
        if not ended.fired:
            break
        check_message(ended)
        training.check_what_is_kept()

    assert ended.code == 0, ended.output
    assert number > 50
    assert training.results() == training.expected


@pytest.mark.parametrize(("done", "write"), [(0, 1), (0, 150), (1, 100), (2, 150)])
def test_a_disk_that_is_full_in_the_midst_of_a_checkpoint_leaves_the_one_before(
    training: Training, done: int, write: int
) -> None:
    number = done * training.writes_per_checkpoint + write

    full = training.break_by(Fault(WRITE, number, "no room"))

    assert ".ckpt: make room" in full.output
    (folder,) = list_run_folders(training.root)
    assert [entry.step for entry in folder.checkpoints()] == [4, 2][2 - done :]
    assert training.leftovers() == []
    training.complete()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(WRITE, 300, "kill half way"),
        Fault("rename step-N.ckpt", 2, "kill before"),
        Fault("rename LATEST.json", 3, "no room"),
    ],
    ids=str,
)
def test_temporary_files_may_lie_on_another_file_system(
    training: Training, fault: Fault
) -> None:
    """There, what is written in one place and moved to another is written twice."""
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == training.root.stat().st_dev:
        pytest.skip("there is no other file system")
    environment = {"TMPDIR": str(elsewhere)}

    training.break_by(fault, environment)

    training.complete(environment)


def test_naive_checkpoints_do_not_survive_the_same_faults(training: Training) -> None:
    """Without a fault they are as good: it is the faults that these tests see."""
    assert training.run(function="naive").code == 0
    assert training.results() == training.expected
    faults = [
        Fault("write last.ckpt", number, effect)
        for number in (2, training.writes_per_checkpoint + 100)
        for effect in get_args(Effect)
        if effect != "kill after"
    ]
    broken = []

    for fault in faults:
        training.forget()
        assert training.run(fault, function="naive").fired
        code = training.run(function="naive").code
        if code or training.results() != training.expected:
            broken.append(fault)

    assert broken == faults


@pytest.mark.parametrize(
    "fault",
    [
        Fault("rename LATEST.json", 1, "kill after"),
        Fault("remove step-N.ckpt", 1, "kill after"),
        Fault("remove training.json", 1, "kill before"),
    ],
    ids=str,
)
def test_starting_over_can_be_killed_too(training: Training, fault: Fault) -> None:
    training.break_by(Fault("remove step-N.ckpt", 1, "kill before"))

    training.break_by(fault, {"TOYGPT_FRESH": "1"})

    training.complete()


def test_damaged_checkpoints_end_the_stage_and_a_fresh_start_works(
    training: Training,
) -> None:
    training.break_by(Fault("make models", 1, "kill before"))
    (folder,) = list_run_folders(training.root)
    for checkpoint in folder.checkpoints():
        os.truncate(folder.path_of(checkpoint), 1000)

    refused = training.run()

    assert refused.code == 1
    assert refused.output.count("is damaged: 1,000 bytes instead of") == 2
    assert "error: no checkpoint of this training" in refused.output
    assert "--fresh" in refused.output
    assert "resuming after" not in training.complete({"TOYGPT_FRESH": "1"})


@pytest.mark.chaos
@pytest.mark.parametrize("effect", ["no room", "kill before", "kill half way"])
def test_every_single_change_of_a_file_may_be_the_last(
    training: Training, effect: Any
) -> None:
    """Each from the beginning of a training, for every number until it passes."""
    number = 0
    while True:
        number += 1
        training.forget()
        if not training.run(Fault(".*", number, effect)).fired:
            break
        training.check_what_is_kept()
        training.complete()

    assert number > 1000
