"""The train stage, killed and starved at every moment, ends with the same weights."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import omegaconf  # noqa: F401  (torch loads it late: here once, not in every fork)
import pytest

from stages import download, split, tokenize, train
from tests.faults.faults import Ended, Fault, Workbench, name_of
from tests.project import Workspace, tiny_project
from toygpt.model.huggingface import weights_digest
from toygpt.pipeline import paths
from toygpt.pipeline.files import sha256_of, write_text
from toygpt.pipeline.stage import run
from toygpt.resuming import run_folder as unfinished
from toygpt.resuming.run_folder import (
    Checkpoint,
    RunFolder,
    list_run_folders,
)

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
WRITES_PER_CHECKPOINT = 379
WRITE = "write step-N.ckpt"
# Of the hundreds of writes that a checkpoint consists of, other tests take some.
ANY_BUT_REMOVE = r"(?!remove|write step).*"
OUTPUTS = ("models", "reports", "metrics/train.json", ".toygpt")

# Every change of a file that a checkpoint consists of, in order. The folder that holds
# it is flushed twice before the first one: LATEST.json and training.json are new then.
PHASES = [
    ("open step-N.ckpt", 1, 0),
    (WRITE, WRITES_PER_CHECKPOINT, 0),
    ("flush step-N.ckpt", 1, 0),
    ("rename step-N.ckpt", 1, 0),
    ("flush training", 2, 2),
    ("open LATEST.json", 1, 1),
    ("write LATEST.json", 1, 1),
    ("flush LATEST.json", 1, 1),
    ("rename LATEST.json", 1, 1),
    ("flush training", 2, 3),
]
KILLS = [
    Fault(point, per_checkpoint * number + before + 1, effect)
    for point, per_checkpoint, before in PHASES
    for number in range(NUM_CHECKPOINTS)
    for effect in ("kill before", "kill half way")
    if effect == "kill before" or point.startswith("write")
] + [Fault(WRITE, 600, "kill half way")]
KILLS += [
    Fault("remove step-N.ckpt", 1, "kill before"),
    Fault("remove step-N.ckpt", 1, "kill after"),
]
AFTER_TRAINING = [
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
    """What one writes first: one file, overwritten in its place, and believed."""

    def save(self, step: int, write: Callable[[Any], object]) -> None:
        """Write over the checkpoint before."""
        with (self.folder / "last.ckpt").open("wb") as file:
            write(file)

    def best_checkpoint(self) -> Checkpoint | None:
        """Take whatever is there."""
        path = self.folder / "last.ckpt"
        return Checkpoint(path.name, "", 0, 0) if path.exists() else None


def naive() -> None:
    """Run the train stage with naive checkpoints."""
    unfinished.RunFolder = Naive  # type: ignore[misc]
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
    for number in range(12):
        text = f"def number_{number}(self):\n    return {number**9}\n" * 2
        write_text(workspace.root / "texts" / str(number) / "a.txt", text)
    ended = bench.run("prepare", workspace.root)
    assert ended.code == 0, ended.output
    return workspace


@pytest.fixture(scope="module")
def uninterrupted(made: Workspace, bench: Workbench) -> dict[str, str]:
    """The digests of everything that a training writes if nothing goes wrong."""
    ended = bench.run("real", made.root)
    assert ended.code == 0, ended.output
    return results(made.root)


@pytest.fixture
def project(made: Workspace, uninterrupted: dict[str, str]) -> Path:
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


@pytest.mark.parametrize(
    "fault", [*KILLS, *AFTER_TRAINING], ids=lambda f: f"{f.effect} {f.point} {f.number}"
)
def test_a_training_that_was_killed_ends_as_if_it_had_not_been(
    project: Path, bench: Workbench, uninterrupted: dict[str, str], fault: Fault
) -> None:
    killed = bench.run("real", project, fault)
    assert (killed.code, len(killed.fired)) == (-9, 1), killed.output
    check_what_is_kept(project)

    ended = bench.run("real", project)

    assert ended.code == 0, ended.output
    assert results(project) == uninterrupted


def test_a_checkpoint_consists_of_as_many_writes_as_are_counted_on(
    project: Path, bench: Workbench
) -> None:
    """Or the numbers above mean other moments than they say."""
    all_writes = NUM_CHECKPOINTS * WRITES_PER_CHECKPOINT

    last = bench.run("real", project, Fault(WRITE, all_writes, "kill after"))
    forget(project)
    beyond = bench.run("real", project, Fault(WRITE, all_writes + 1, "kill after"))

    assert (last.code, len(last.fired)) == (-9, 1)
    assert (beyond.code, len(beyond.fired)) == (0, 0)


def test_a_disk_that_is_full_at_any_write_costs_no_step(
    project: Path, bench: Workbench, uninterrupted: dict[str, str]
) -> None:
    """Full at the first change of a file, then at the second, until it passes."""
    number = 0
    while True:
        number += 1
        ended = bench.run("real", project, Fault(ANY_BUT_REMOVE, number, "no room"))
        if not ended.fired:
            break
        check_that_it_told_of(ended)
        check_what_is_kept(project)

    assert ended.code == 0, ended.output
    assert number > 50
    assert results(project) == uninterrupted


def check_that_it_told_of(ended: Ended) -> None:
    """The file that found no room is named, and no traceback is shown.

    Of what other libraries write into a folder, the folder is named.
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


@pytest.mark.parametrize("number", range(1, 3 * WRITES_PER_CHECKPOINT, 250))
def test_a_disk_that_is_full_in_the_midst_of_a_checkpoint_leaves_the_one_before(
    project: Path, bench: Workbench, uninterrupted: dict[str, str], number: int
) -> None:
    full = bench.run("real", project, Fault(WRITE, number, "no room"))
    assert full.fired
    check_that_it_told_of(full)
    assert ".ckpt: make room" in full.output
    check_what_is_kept(project)
    (training,) = list_run_folders(project)
    done = (number - 1) // WRITES_PER_CHECKPOINT
    assert [entry.step for entry in training.checkpoints()] == [
        2 * n for n in range(done, max(0, done - 2), -1)
    ]
    assert leftovers(project) == []

    ended = bench.run("real", project)

    assert ended.code == 0, ended.output
    assert results(project) == uninterrupted


@pytest.mark.parametrize(
    "fault",
    [
        Fault(WRITE, 500, "kill half way"),
        Fault("rename step-N.ckpt", 2, "kill before"),
        Fault("rename LATEST.json", 3, "no room"),
    ],
    ids=str,
)
def test_temporary_files_may_lie_on_another_file_system(
    project: Path, bench: Workbench, uninterrupted: dict[str, str], fault: Fault
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
    assert results(project) == uninterrupted


def test_naive_checkpoints_do_not_survive_the_same_faults(
    project: Path, bench: Workbench, uninterrupted: dict[str, str]
) -> None:
    """Without a fault they are as good: it is the faults that these tests see."""
    assert bench.run("naive", project).code == 0
    assert results(project) == uninterrupted
    faults = [
        Fault("write last.ckpt", number, effect)
        for number in (2, 100, 379, 500, 1000)
        for effect in ("kill before", "kill half way", "no room")
    ]
    broken = []

    for fault in faults:
        forget(project)
        assert bench.run("naive", project, fault).fired
        if bench.run("naive", project).code or results(project) != uninterrupted:
            broken.append(fault)

    assert broken == faults


def test_a_training_killed_between_two_folders_is_found_by_no_other(
    project: Path, bench: Workbench, uninterrupted: dict[str, str]
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

    assert "going on" not in other.output
    assert found != uninterrupted["weights"]
    assert "going on after step 2" in own.output
    assert results(project) == uninterrupted


def test_a_user_can_start_over(
    project: Path, bench: Workbench, uninterrupted: dict[str, str]
) -> None:
    bench.run("real", project, Fault("remove step-N.ckpt", 1, "kill before"))

    fresh = bench.run("real", project, environment={"TOYGPT_FRESH": "1"})

    assert "going on" not in fresh.output
    assert fresh.code == 0, fresh.output
    assert results(project) == uninterrupted


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
    project: Path, bench: Workbench, uninterrupted: dict[str, str], fault: Fault
) -> None:
    bench.run("real", project, Fault("remove step-N.ckpt", 1, "kill before"))

    killed = bench.run("real", project, fault, {"TOYGPT_FRESH": "1"})
    ended = bench.run("real", project)

    assert (killed.code, len(killed.fired)) == (-9, 1)
    assert ended.code == 0, ended.output
    assert results(project) == uninterrupted


def test_a_stage_of_its_own_process_ends_with_an_error_and_goes_on(
    project: Path, bench: Workbench, uninterrupted: dict[str, str]
) -> None:
    """As users start it: `python -m stages.train`, here with damaged checkpoints."""
    bench.run("real", project, Fault("make models", 1, "kill before"))
    (training,) = list_run_folders(project)
    for checkpoint in training.checkpoints():
        os.truncate(training.path_of(checkpoint), 1000)
    command = [sys.executable, "-m", "stages.train"]

    refused = subprocess.run(command, cwd=project, capture_output=True, text=True)
    started_over = subprocess.run(
        command,
        cwd=project,
        env=os.environ | {"TOYGPT_FRESH": "1"},
        capture_output=True,
        text=True,
    )

    assert refused.returncode == 1
    assert "is damaged: 1,000 bytes instead of" in refused.stderr
    assert "going back to the checkpoint before it, step 4" in refused.stderr
    assert "error: no checkpoint of this training" in refused.stderr
    assert "--fresh" in refused.stderr
    assert started_over.returncode == 0, started_over.stderr
    assert results(project) == uninterrupted


@pytest.mark.chaos
@pytest.mark.parametrize("effect", ["no room", "kill before", "kill half way"])
def test_every_single_change_of_a_file_may_be_the_last(
    project: Path, bench: Workbench, uninterrupted: dict[str, str], effect: Any
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
        assert results(project) == uninterrupted, broken.fired

    assert number > 1000
