"""A disk that is full at any write of a stage: one message, and no result is lost."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from stages import download, evaluate, generate_samples, split, tokenize
from tests.project import PROJECT, Workspace, tiny_project
from tests.tiny import lively_model
from toygpt.data.tokenizer import load_tokenizer, vocab_size_of
from toygpt.model.huggingface import save_model
from toygpt.pipeline import paths
from toygpt.pipeline.files import new_directory, sha256_of, write_text
from toygpt.pipeline.stage import run

pytestmark = pytest.mark.slow

OUTPUTS = {
    "download": ["data/documents", "metrics/download.json"],
    "tokenize": ["data/tokens", "metrics/tokenize.json"],
    "split": ["data/splits", "metrics/split.json"],
    "evaluate": ["metrics/evaluate.json"],
    "generate_samples": ["reports/samples", "metrics/generate-samples.json"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a project of a few kB whose stages have run, on an untrained model."""
    workspace = tiny_project(tmp_path_factory.mktemp("made") / "project")
    workspace.set_params(
        {
            "corpus": "files",
            "tokenize.vocab_size": 260,
            "models.nano.block_size": 4,
            "generate-samples.prompts": ["def"],
            "tracking.mlflow": False,
            "tracking.wandb": "disabled",
        }
    )
    for number in range(12):
        write_text(
            workspace.root / "texts" / f"{number}" / "a.txt",
            f"def number_{number}(self):\n    return {number**9}\n" * 2,
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace.root)
        for stage in (download, tokenize, split):
            run(stage.main)
        tokenizer = load_tokenizer(paths.TOKENIZER)
        with new_directory(paths.MODEL) as directory:
            save_model(
                lively_model(vocab_size=vocab_size_of(tokenizer), block_size=4),
                directory,
                end_of_text_id=0,
                tokenizer_directory=paths.TOKENIZER,
            )
        for stage in (evaluate, generate_samples):
            run(stage.main)
    return workspace


# Runs a stage again and again, with ever more room, until it passes. The disk is real:
# a file system in memory, in a name space of its own. Each attempt is a process that
# was forked when all that takes long had been imported.
COUNT_UP = """
import importlib, json, os, shutil, subprocess, sys, tempfile
from pathlib import Path
from tests.faults.test_full_disk import digests
from toygpt.pipeline.stage import run

made, disk, outputs = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
stages = {name: importlib.import_module(f"stages.{name}") for name in outputs}
sys.modules["toygpt.model.huggingface"].load_model(made / "models" / "toygpt")

subprocess.run(["mount", "-t", "tmpfs", "tiny", disk], check=True)
os.chdir(disk)
for name in ("params.yaml", "dvc.yaml"):
    shutil.copy(made / name, disk / name)
shutil.copytree(made / "texts", disk / "texts")


def resize(kind, room):
    usage = os.statvfs(disk)
    pages = (usage.f_blocks - usage.f_bfree) if usage.f_blocks else 0
    inodes = usage.f_files - usage.f_ffree
    size = (pages + room) * usage.f_frsize if kind == "bytes" else 1 << 30
    files = inodes + room if kind == "files" else 1 << 20
    options = f"remount,size={size},nr_inodes={files}"
    subprocess.run(["mount", "-o", options, disk], check=True)


def attempt(stage, kind, room):
    for name in ("data", "models", "metrics", "reports"):
        shutil.rmtree(disk / name, ignore_errors=True)
        shutil.copytree(made / name, disk / name)
    for name in outputs[stage]:
        for path in [disk / name, *(disk / name).rglob("*")]:
            if path.is_file():
                path.write_text("old")
    before = digests(disk)
    resize(kind, room)
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if not child:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            code = 0
            try:
                run(stages[stage].main)
            except SystemExit as ended:
                print(ended.code, file=sys.stderr)
                code = 1
            finally:
                sys.stdout.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        report = {
            "stage": stage, "kind": kind, "code": code, "output": output.read(),
            "before": before, "after": digests(disk),
        }
    resize("neither", 0)
    print(json.dumps(report), flush=True)
    return code


for stage in outputs:
    for kind in ("bytes", "files"):
        room = 0
        while attempt(stage, kind, room) and room < 60:
            room += 1
"""


def digests(folder: Path) -> dict[str, str]:
    """Return every file below a folder, hidden ones too, with its digest."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Attempt(NamedTuple):
    """A stage that ran with so many pages, or files, left on its disk."""

    stage: str
    kind: str
    code: int
    output: str
    before: dict[str, str]
    after: dict[str, str]


@pytest.fixture(scope="module")
def attempts(
    made: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> list[Attempt]:
    """Return the attempts of each stage on a disk with more and more room."""
    disk = str(tmp_path_factory.mktemp("disk"))
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    workspace = Workspace(made.root)
    mount = [*alone, "mount", "-t", "tmpfs", "tiny", disk]
    if not shutil.which("unshare") or workspace.run(*mount, check=False).returncode:
        pytest.skip("this system lets no user mount a disk")
    workspace.environment["PYTHONPATH"] = str(PROJECT)
    program = ["python", "-P", "-c", COUNT_UP, str(made.root), disk]
    done = workspace.run(*alone, *program, json.dumps(OUTPUTS))
    return [Attempt(**json.loads(line)) for line in done.stdout.splitlines()]


def under(files: dict[str, str], name: str) -> dict[str, str]:
    """Return the files that make up an output."""
    return {path: files[path] for path in files if f"{path}/".startswith(f"{name}/")}


@pytest.mark.parametrize("kind", ["bytes", "files"])
@pytest.mark.parametrize("stage", OUTPUTS)
def test_a_full_disk_ends_a_stage_and_leaves_the_old_results(
    made: Workspace, attempts: list[Attempt], stage: str, kind: str
) -> None:
    """At any write: there is room for all writes before it, and none for it."""
    new = digests(made.root)
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
