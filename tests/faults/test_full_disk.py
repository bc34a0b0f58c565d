"""A disk that is full at any write of a stage: one message, and no result is lost."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import pytest

from stages import download, evaluate, generate_samples, split, tokenize
from tests.faults.small import small_project
from tests.project import PROJECT, Workspace
from tests.tiny import lively_model
from toygpt.data.tokenizer import load_tokenizer, vocab_size_of
from toygpt.model.huggingface import load_model, save_model
from toygpt.pipeline import paths
from toygpt.pipeline.files import new_directory, sha256_of
from toygpt.pipeline.stage import run

pytestmark = pytest.mark.slow

STAGES = {
    "download": download.main,
    "tokenize": tokenize.main,
    "split": split.main,
    "evaluate": evaluate.main,
    "generate_samples": generate_samples.main,
}
OUTPUTS = {
    "download": ["data/documents", "metrics/download.json"],
    "tokenize": ["data/tokens", "metrics/tokenize.json"],
    "split": ["data/splits", "metrics/split.json"],
    "evaluate": ["reports/evaluate", "metrics/evaluate.json"],
    "generate_samples": ["reports/samples", "metrics/generate-samples.json"],
}
KINDS = ["bytes", "files"]
MOST_ROOM = 60


class Attempt(NamedTuple):
    """A stage that ran with so many pages, or files, left on its disk."""

    stage: str
    kind: str
    code: int
    output: str
    before: dict[str, str]
    after: dict[str, str]


def digests(folder: Path) -> dict[str, str]:
    """Return every file below a folder, hidden ones too, with its digest."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def count_up(made: Path, disk: Path) -> Iterator[Attempt]:
    """Run each stage again and again, with ever more room, until it passes.

    The disk is real: a file system in memory, in a name space of its own. Each attempt
    is a fork of this process, which has imported everything.
    """
    load_model(made / paths.MODEL)
    subprocess.run(["mount", "-t", "tmpfs", "tiny", disk], check=True)
    os.chdir(disk)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(made / name, disk)
    shutil.copytree(made / "texts", disk / "texts")
    for stage in STAGES:
        for kind in KINDS:
            for room in range(MOST_ROOM):
                yield (tried := attempt(made, disk, stage, kind, room))
                if tried.code == 0:
                    break


def attempt(made: Path, disk: Path, stage: str, kind: str, room: int) -> Attempt:
    for name in ("data", "models", "metrics", "reports"):
        shutil.rmtree(disk / name, ignore_errors=True)
        shutil.copytree(made / name, disk / name)
    for name in OUTPUTS[stage]:
        for path in [disk / name, *(disk / name).rglob("*")]:
            if path.is_file():
                path.write_text("old")
    before = digests(disk)
    resize(disk, kind, room)
    with tempfile.TemporaryFile("w+") as output:
        task = (output.fileno(), STAGES[stage])
        process = get_context("fork").Process(target=run_into, args=task)
        process.start()
        process.join()
        output.seek(0)
        said = output.read()
    resize(disk, "neither", 0)
    return Attempt(stage, kind, process.exitcode or 0, said, before, digests(disk))


def run_into(output: int, main: Callable[[], None]) -> None:
    os.dup2(output, 1)
    os.dup2(output, 2)
    run(main)


def resize(disk: Path, kind: str, room: int) -> None:
    usage = os.statvfs(disk)
    pages = (usage.f_blocks - usage.f_bfree) if usage.f_blocks else 0
    size = (pages + room) * usage.f_frsize if kind == "bytes" else 1 << 30
    files = usage.f_files - usage.f_ffree + room if kind == "files" else 1 << 20
    options = f"remount,size={size},nr_inodes={files}"
    subprocess.run(["mount", "-o", options, disk], check=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project of a few kB whose stages have run, on an untrained model."""
    changes = {"generate-samples.prompts": ["def"]}
    root = small_project(tmp_path_factory.mktemp("made") / "project", changes).root
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for stage, main in STAGES.items():
            run(main)
            if stage == "split":
                vocab_size = vocab_size_of(load_tokenizer(paths.TOKENIZER))
                with new_directory(paths.MODEL) as directory:
                    save_model(
                        lively_model(vocab_size=vocab_size, block_size=4),
                        directory,
                        end_of_text_id=0,
                        tokenizer_directory=paths.TOKENIZER,
                    )
    return root


@pytest.fixture(scope="module")
def attempts(made: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Attempt]:
    """Return the attempts of each stage on a disk with more and more room."""
    disk = str(tmp_path_factory.mktemp("disk"))
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    project = Workspace(PROJECT)
    mount = [*alone, "mount", "-t", "tmpfs", "tiny", disk]
    if not shutil.which("unshare") or project.run(*mount, check=False).returncode:
        pytest.skip("this system lets no user mount a disk")
    done = project.run(*alone, "python", "-m", __name__, str(made), disk)
    return [Attempt(*entry) for entry in json.loads(done.stdout)]


def under(files: dict[str, str], name: str) -> dict[str, str]:
    """Return the files that make up an output."""
    return {path: files[path] for path in files if f"{path}/".startswith(f"{name}/")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_ends_a_stage_and_leaves_the_old_results(
    made: Path, attempts: list[Attempt], stage: str, kind: str
) -> None:
    """At any write: there is room for all writes before it, and none for it."""
    new = digests(made)
    *failed, passed = [a for a in attempts if (a.stage, a.kind) == (stage, kind)]

    assert passed.code == 0, passed.output
    for name in OUTPUTS[stage]:
        assert under(passed.after, name) == under(new, name)
    assert failed
    for attempt in failed:
        assert attempt.code == 1
        (line,) = attempt.output.splitlines()
        assert line.startswith("error: no room left for ")
        assert line.endswith(": make room on its disk, then run the same command again")
        (named,) = [n for n in OUTPUTS[stage] if f"for {n}" in line]
        assert under(attempt.after, named) == under(attempt.before, named)
        for name in OUTPUTS[stage]:
            old_and_new = (under(attempt.before, name), under(new, name))
            assert under(attempt.after, name) in old_and_new
        assert attempt.after.keys() == attempt.before.keys(), "no temporary file"
    # With no room at all, nothing has changed.
    assert failed[0].after == failed[0].before


if __name__ == "__main__":
    print(json.dumps(list(count_up(*map(Path, sys.argv[1:])))))
