"""The train stage, killed and starved at every moment, ends with the same weights."""

import re
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, get_args

import omegaconf  # noqa: F401  (torch loads it late: here once, not in every fork)
import pytest
import torch

from stages import download, split, tokenize, train
from tests.faults.faults import Effect, Ended, Fault, Workbench, name_of
from tests.faults.small import results_of, small_project
from toygpt.pipeline.stage import run
from toygpt.resuming import run_folder
from toygpt.resuming.checkpoint import Checkpoint
from toygpt.resuming.run_folder import RunFolder, list_run_folders

pytestmark = pytest.mark.slow

# Six steps with dropout, in the middle of epochs, and a checkpoint at every second.
PARAMS: dict[str, Any] = {
    "train.batch_size": 4,
    "train.max_tokens": 6 * 16,
    "train.warmup_tokens": 0,
    "train.decay_tokens": 32,
    "train.validate_every_tokens": 3 * 16,
    "train.validation_tokens": 64,
    "train.dropout": 0.1,
    "runtime.micro_batch_size": 3,
    "runtime.checkpoint_every_steps": 2,
}
NUM_CHECKPOINTS = 3
NEVER = 10**9
OPEN = "open step-N.ckpt"
WRITE = "write step-N.ckpt"
# A checkpoint consists of hundreds of writes; other tests take some of them.
ANY_THAT_TAKES_ROOM = r"(?!write step)(open|write|make) .*"
OUTPUTS = ("models", "reports", "metrics/train.json", ".toygpt")


# Every change of a file that saves a checkpoint, in order; the number says which of
# the calls in this checkpoint.
MOMENTS: list[tuple[str, Effect, int]] = [
    (OPEN, "kill before", 0),
    (WRITE, "kill before", 0),
    (WRITE, "kill half way", 150),
    ("flush step-N.ckpt", "kill before", 0),
    ("rename step-N.ckpt", "kill before", 0),
    ("flush training", "kill before", 0),
    ("open LATEST.json", "kill before", 0),
    ("write LATEST.json", "kill before", 0),
    ("write LATEST.json", "kill half way", 0),
    ("flush LATEST.json", "kill before", 0),
    ("rename LATEST.json", "kill before", 0),
    ("flush training", "kill before", 1),
]
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
    Fault(WRITE, 300, "kill half way"),
    Fault("rename step-N.ckpt", 2, "kill before"),
    Fault("rename LATEST.json", 3, "no room"),
    Fault("flush step-N.ckpt", 2, "no room"),
    # A quota, or a server of files, may report it only here.
    Fault("flush LATEST.json", 1, "no room"),
    Fault("flush train.json", 1, "no room"),
    Fault("rename train.json", 1, "no room"),
    Fault("rename toygpt", 1, "no room"),
]


def prepare() -> None:
    for stage in (download, tokenize, split):
        run(stage.main)


def real() -> None:
    run(train.main)


class Naive(RunFolder):
    """The way that one writes first: a file overwritten in its place, and trusted."""

    def save(self, step: int, checkpoint: dict[str, Any]) -> None:
        with self.path_of().open("wb") as file:
            torch.save(checkpoint, file)

    def best_checkpoint(self) -> Checkpoint | None:
        return Checkpoint(0, ()) if self.path_of().exists() else None

    def path_of(self, checkpoint: Checkpoint | None = None) -> Path:
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
        whole = self.run(Fault(".*", NEVER, "no room"))
        assert (whole.code, whole.fired) == (0, []), whole.output
        self.calls = whole.calls
        self.expected = self.results()

    def run(
        self,
        fault: Fault | None = None,
        function: Callable[[], None] = real,
        /,
        **environment: str,
    ) -> Ended:
        """Train, or continue."""
        return self.bench.run(function, self.root, fault, environment)

    def number_of(self, point: str, checkpoint: int, call: int) -> int:
        """Return the number of a failpoint's call; all of these count from zero."""
        opened = [i for i, found in enumerate(self.calls) if found == OPEN]
        assert len(opened) == NUM_CHECKPOINTS
        return self.calls[: opened[checkpoint]].count(point) + call + 1

    def break_by(self, fault: Fault, **environment: str) -> Ended:
        """Train until the fault comes, which harms no checkpoint."""
        ended = self.run(fault, **environment)
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

    def complete(self, **environment: str) -> None:
        """Train to the end, with the results of a whole training."""
        ended = self.run(**environment)
        assert ended.code == 0, ended.output
        assert self.results() == self.expected

    def results(self) -> dict[str, str]:
        """Return the digests of a finished training, of which nothing else is left."""
        assert list_run_folders(self.root) == []
        assert self.leftovers() == []
        return results_of(self.root)

    def leftovers(self) -> list[Path]:
        return [p for name in OUTPUTS for p in (self.root / name).rglob(".*.tmp")]

    def forget(self) -> None:
        for path in [self.root / name for name in OUTPUTS]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Training:
    root = small_project(tmp_path_factory.mktemp("faults") / "project", PARAMS).root
    bench = Workbench(__name__)
    ended = bench.run(prepare, root)
    assert ended.code == 0, ended.output
    return Training(bench, root)


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


@pytest.mark.parametrize("checkpoint", [0, 2])  # of 3; the last replaces the first
@pytest.mark.parametrize(("point", "effect", "call"), MOMENTS)
def test_a_training_killed_while_it_saves_ends_as_if_it_had_not_been(
    training: Training, point: str, effect: Effect, call: int, checkpoint: int
) -> None:
    number = training.number_of(point, checkpoint, call)

    training.break_by(Fault(point, number, effect))

    training.complete()


@pytest.mark.parametrize("fault", OTHER_KILLS, ids=str)
def test_a_training_broken_later_or_with_temporary_files_elsewhere_ends_the_same(
    training: Training, fault: Fault
) -> None:
    """On another file system, if there is one: a move to it writes a second time."""
    elsewhere = {"TMPDIR": "/dev/shm"} if Path("/dev/shm").is_dir() else {}

    training.break_by(fault, **elsewhere)

    training.complete(**elsewhere)


def test_a_disk_that_is_full_at_any_write_costs_no_step(training: Training) -> None:
    """Full when the first file is made, opened or written, then the second, ..."""
    for number in count(1):
        ended = training.run(Fault(ANY_THAT_TAKES_ROOM, number, "no room"))
        if not ended.fired:
            break
        check_message(ended)
        training.check_what_is_kept()

    assert ended.code == 0, ended.output
    assert number > 50
    assert training.results() == training.expected


@pytest.mark.parametrize(("done", "write"), [(0, 0), (0, 149), (1, 99), (2, 149)])
def test_a_disk_that_is_full_in_the_midst_of_a_checkpoint_leaves_the_one_before(
    training: Training, done: int, write: int
) -> None:
    number = training.number_of(WRITE, done, write)

    full = training.break_by(Fault(WRITE, number, "no room"))

    assert ".ckpt: make room" in full.output
    (folder,) = list_run_folders(training.root)
    assert [entry.step for entry in folder.checkpoints()] == [4, 2][2 - done :]
    assert training.leftovers() == []
    training.complete()


def test_naive_checkpoints_do_not_survive_the_same_faults(training: Training) -> None:
    """Without a fault they are as good: it is the faults that these tests see."""
    assert training.run(None, naive).code == 0
    assert training.results() == training.expected

    for number in (2, training.number_of(WRITE, 1, 99)):
        for effect in get_args(Effect)[:-1]:  # all but "kill after"
            training.forget()
            fault = Fault("write last.ckpt", number, effect)
            assert training.run(fault, naive).fired
            code = training.run(None, naive).code
            assert code or training.results() != training.expected, fault


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

    training.break_by(fault, TOYGPT_FRESH="1")

    training.complete()


@pytest.mark.chaos
@pytest.mark.parametrize("effect", ["no room", "kill before", "kill half way"])
def test_every_single_change_of_a_file_may_be_the_last(
    training: Training, effect: Any
) -> None:
    """Each from the beginning of a training, for every number until it passes."""
    for number in count(1):
        training.forget()
        if not training.run(Fault(".*", number, effect)).fired:
            break
        training.check_what_is_kept()
        training.complete()

    assert number > 1000
