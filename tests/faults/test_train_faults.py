"""The train stage, killed and starved at every moment, ends with the same weights."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import omegaconf  # noqa: F401  (torch loads it late: here once, not in every fork)
import pytest
import torch

from stages import download, split, tokenize, train
from tests.faults.faults import Effect, Ended, Fault, Workbench, name_of
from tests.project import Workspace, tiny_project
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


class Results(NamedTuple):
    """What a training comes to that nothing interrupts."""

    digests: dict[str, str]  # of all files that it writes
    writes_per_checkpoint: int


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


@pytest.fixture(scope="module")
def bench() -> Iterator[Workbench]:
    with Workbench(__name__) as bench:
        yield bench


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, bench: Workbench) -> Workspace:
    """A project in which everything is ready to train."""
    workspace = tiny_project(tmp_path_factory.mktemp("faults") / "project")
    workspace.set_params(PARAMS)
    (workspace.root / "dvc.lock").unlink()  # to read it would be half of each run
    for number in range(12):
        text = f"def number_{number}(self):\n    return {number**9}\n" * 2
        write_text(workspace.root / "texts" / str(number) / "a.txt", text)
    ended = bench.run("prepare", workspace.root)
    assert ended.code == 0, ended.output
    return workspace


@pytest.fixture(scope="module")
def uninterrupted(made: Workspace, bench: Workbench) -> Results:
    """The results if nothing goes wrong, and the number of writes on the way."""
    ended = bench.run("real", made.root, Fault(WRITE, NEVER, "no room"))
    assert (ended.code, ended.fired) == (0, []), ended.output
    assert ended.num_calls is not None
    writes, rest = divmod(ended.num_calls, NUM_CHECKPOINTS)
    assert writes > 150 and not rest
    return Results(results(made.root), writes)


@pytest.fixture
def project(made: Workspace, uninterrupted: Results) -> Path:
    """The project, not trained yet."""
    forget(made.root)
    return made.root


def forget(root: Path) -> None:
    for name in OUTPUTS:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def results(root: Path) -> dict[str, str]:
    """Return the digest of everything that a finished training has written."""
    found = {"weights": weights_digest(root / paths.MODEL)}
    for path in [*(root / paths.TRAIN_REPORT).iterdir(), root / "metrics/train.json"]:
        found[path.name] = sha256_of(path)
    assert list_run_folders(root) == []
    assert leftovers(root) == []
    return found


def leftovers(root: Path) -> list[str]:
    """Return the names of everything that was begun and not finished."""
    return [
        path.name
        for name in OUTPUTS
        for path in (root / name).rglob(".*.tmp")
        if (root / name).is_dir()
    ]


def check_what_is_kept(root: Path) -> None:
    """Every checkpoint that counts is whole, and there are two at most."""
    for training in list_run_folders(root):
        checkpoints = training.checkpoints()
        assert len(checkpoints) <= 2
        assert [training.damage_of(entry) for entry in checkpoints] == [None] * len(
            checkpoints
        )


@pytest.mark.parametrize("number", FIRST_AND_LAST)
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda m: f"{m.effect} {m.point}")
def test_a_training_killed_while_it_saves_ends_as_if_it_had_not_been(
    project: Path, bench: Workbench, uninterrupted: Results, moment: Moment, number: int
) -> None:
    per_checkpoint = moment.per_checkpoint
    if per_checkpoint < 0:
        per_checkpoint = uninterrupted.writes_per_checkpoint
    call = moment.at_start + per_checkpoint * number + moment.which + 1

    kill_and_repeat(bench, project, Fault(moment.point, call, moment.effect))

    assert results(project) == uninterrupted.digests


@pytest.mark.parametrize("fault", OTHER_KILLS, ids=str)
def test_a_training_killed_later_ends_as_if_it_had_not_been(
    project: Path, bench: Workbench, uninterrupted: Results, fault: Fault
) -> None:
    kill_and_repeat(bench, project, fault)

    assert results(project) == uninterrupted.digests


def kill_and_repeat(bench: Workbench, project: Path, fault: Fault) -> None:
    killed = bench.run("real", project, fault)
    assert (killed.code, len(killed.fired)) == (-9, 1), killed.output
    check_what_is_kept(project)

    ended = bench.run("real", project)

    assert ended.code == 0, ended.output


def test_a_disk_that_is_full_at_any_write_costs_no_step(
    project: Path, bench: Workbench, uninterrupted: Results
) -> None:
    """Full at the first change of a file, then at the second, until it passes."""
    number = 0
    while True:
        number += 1
        ended = bench.run("real", project, Fault(ANY_BUT_REMOVE, number, "no room"))
        if not ended.fired:
            break
        check_message(ended)
        check_what_is_kept(project)

    assert ended.code == 0, ended.output
    assert number > 50
    assert results(project) == uninterrupted.digests


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


@pytest.mark.parametrize(("done", "write"), [(0, 1), (0, 150), (1, 100), (2, 150)])
def test_a_disk_that_is_full_in_the_midst_of_a_checkpoint_leaves_the_one_before(
    project: Path, bench: Workbench, uninterrupted: Results, done: int, write: int
) -> None:
    number = done * uninterrupted.writes_per_checkpoint + write
    full = bench.run("real", project, Fault(WRITE, number, "no room"))
    assert full.fired
    check_message(full)
    assert ".ckpt: make room" in full.output
    check_what_is_kept(project)
    (training,) = list_run_folders(project)
    assert [entry.step for entry in training.checkpoints()] == [
        2 * n for n in range(done, max(0, done - 2), -1)
    ]
    assert leftovers(project) == []

    ended = bench.run("real", project)

    assert ended.code == 0, ended.output
    assert results(project) == uninterrupted.digests


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
    project: Path, bench: Workbench, uninterrupted: Results, fault: Fault
) -> None:
    """There, what is written in one place and moved to another is written twice."""
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == project.stat().st_dev:
        pytest.skip("there is no other file system")
    environment = {"TMPDIR": str(elsewhere)}

    broken = bench.run("real", project, fault, environment)
    ended = bench.run("real", project, environment=environment)

    assert broken.fired
    assert broken.code != 0
    assert ended.code == 0, ended.output
    assert results(project) == uninterrupted.digests


def test_naive_checkpoints_do_not_survive_the_same_faults(
    project: Path, bench: Workbench, uninterrupted: Results
) -> None:
    """Without a fault they are as good: it is the faults that these tests see."""
    assert bench.run("naive", project).code == 0
    assert results(project) == uninterrupted.digests
    faults = [
        Fault("write last.ckpt", number, effect)
        for number in (2, uninterrupted.writes_per_checkpoint + 100)
        for effect in get_args(Effect)
        if effect != "kill after"
    ]
    broken = []

    for fault in faults:
        forget(project)
        assert bench.run("naive", project, fault).fired
        if (
            bench.run("naive", project).code
            or results(project) != uninterrupted.digests
        ):
            broken.append(fault)

    assert broken == faults


def test_a_training_killed_between_two_folders_is_found_by_no_other(
    project: Path, bench: Workbench, uninterrupted: Results
) -> None:
    bench.run("real", project, Fault("open LATEST.json", 3, "kill before"))
    workspace = Workspace(project)
    params = (project / "params.yaml").read_text()
    try:
        workspace.set_params({"train.learning_rate": 3e-3})
        other = bench.run("real", project)
        found = weights_digest(project / paths.MODEL)
    finally:
        (project / "params.yaml").write_text(params)
    own = bench.run("real", project)

    assert "resuming after" not in other.output
    assert found != uninterrupted.digests["weights"]
    assert "resuming after step 2" in own.output
    assert results(project) == uninterrupted.digests


def test_a_user_can_start_over(
    project: Path, bench: Workbench, uninterrupted: Results
) -> None:
    bench.run("real", project, Fault("remove step-N.ckpt", 1, "kill before"))

    fresh = bench.run("real", project, environment={"TOYGPT_FRESH": "1"})

    assert "resuming after" not in fresh.output
    assert fresh.code == 0, fresh.output
    assert results(project) == uninterrupted.digests


@pytest.mark.parametrize(
    "fault",
    [
        Fault("rename LATEST.json", 1, "kill after"),
        Fault("remove step-N.ckpt", 1, "kill after"),
        Fault("remove training.json", 1, "kill before"),
    ],
    ids=str,
)
def test_starting_over_can_be_killed_too(
    project: Path, bench: Workbench, uninterrupted: Results, fault: Fault
) -> None:
    bench.run("real", project, Fault("remove step-N.ckpt", 1, "kill before"))

    killed = bench.run("real", project, fault, {"TOYGPT_FRESH": "1"})
    ended = bench.run("real", project)

    assert (killed.code, len(killed.fired)) == (-9, 1)
    assert ended.code == 0, ended.output
    assert results(project) == uninterrupted.digests


def test_damaged_checkpoints_end_the_stage_and_a_fresh_start_works(
    project: Path, bench: Workbench, uninterrupted: Results
) -> None:
    bench.run("real", project, Fault("make models", 1, "kill before"))
    (training,) = list_run_folders(project)
    for checkpoint in training.checkpoints():
        os.truncate(training.path_of(checkpoint), 1000)

    refused = bench.run("real", project)
    started_over = bench.run("real", project, environment={"TOYGPT_FRESH": "1"})

    assert refused.code == 1
    assert refused.output.count("is damaged: 1,000 bytes instead of") == 2
    assert "error: no checkpoint of this training" in refused.output
    assert "--fresh" in refused.output
    assert started_over.code == 0, started_over.output
    assert results(project) == uninterrupted.digests


@pytest.mark.chaos
@pytest.mark.parametrize("effect", ["no room", "kill before", "kill half way"])
def test_every_single_change_of_a_file_may_be_the_last(
    project: Path, bench: Workbench, uninterrupted: Results, effect: Any
) -> None:
    """Each from the beginning of a training, for every number until it passes."""
    number = 0
    while True:
        number += 1
        forget(project)
        broken = bench.run("real", project, Fault(".*", number, effect))
        if not broken.fired:
            break
        check_what_is_kept(project)
        ended = bench.run("real", project)
        assert ended.code == 0, (broken.fired, ended.output)
        assert results(project) == uninterrupted.digests, broken.fired

    assert number > 1000
