"""A disk that is full at any write of a stage: one message, and no result is lost."""

import hashlib
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
from toygpt.pipeline.files import new_directory, write_text
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


def digests(folder: Path) -> dict[str, str]:
    """Return every file below a folder, hidden ones too, with its digest."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }


# Runs a stage again and again, with ever more room, until it passes. The disk is real:
# a file system in memory, in a name space of its own. Each attempt is a process that
# was forked when all that takes long had been imported.
COUNT_UP = """
import hashlib, importlib, json, os, runpy, shutil, subprocess, sys, tempfile, traceback
from pathlib import Path

made, disk, outputs = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
for stage in outputs:
    importlib.import_module(f"stages.{stage}")
for stage in outputs:
    del sys.modules[f"stages.{stage}"]
sys.modules["toygpt.model.huggingface"].load_model(made / "models" / "toygpt")

subprocess.run(["mount", "-t", "tmpfs", "tiny", disk], check=True)
os.chdir(disk)
for name in ("data", "models", "metrics", "reports", "texts"):
    shutil.copytree(made / name, disk / name)
for name in ("params.yaml", "dvc.yaml"):
    shutil.copy(made / name, disk / name)


def resize(kind, room):
    usage = os.statvfs(disk)
    pages = (usage.f_blocks - usage.f_bfree) if usage.f_blocks else 0
    inodes = usage.f_files - usage.f_ffree
    size = (pages + room) * usage.f_frsize if kind == "bytes" else 1 << 30
    files = inodes + room if kind == "files" else 1 << 20
    options = f"remount,size={size},nr_inodes={files}"
    subprocess.run(["mount", "-o", options, disk], check=True)


def is_full_after(kind, room):
    test = disk / "test"
    try:
        if kind == "bytes":
            test.write_bytes(bytes((room + 1) * os.statvfs(disk).f_frsize))
        else:
            test.mkdir()
            for number in range(room):
                (test / str(number)).touch()
    except OSError as error:
        return error.errno == 28
    finally:
        shutil.rmtree(test) if test.is_dir() else test.unlink(missing_ok=True)
    return False


def tree():
    return {
        str(path.relative_to(disk)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(disk.rglob("*")) if path.is_file()
    }


def put_old(names):
    for name in names:
        path = disk / name
        if path.is_dir():
            shutil.rmtree(path)
            path.mkdir()
            path /= "old"
        path.write_text("old")


def run_stage(stage):
    # As Python itself would, but for tidying up all that torch brought along.
    code = 0
    try:
        runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        print(ended.code, file=sys.stderr)
        code = 1
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    os._exit(code)


def attempt(stage, kind, room):
    for name in ("data", "models", "metrics", "reports"):
        shutil.rmtree(disk / name)
        shutil.copytree(made / name, disk / name)
    put_old(outputs[stage])
    before = tree()
    resize(kind, room)
    full = is_full_after(kind, room)
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if not child:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            run_stage(stage)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        report = {
            "stage": stage, "kind": kind, "room": room, "full": full, "code": code,
            "said": said.read(), "before": before, "after": tree(),
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


class Attempt(NamedTuple):
    """A stage that ran with so many pages, or files, left on its disk."""

    stage: str
    kind: str
    room: int
    full: bool
    code: int
    said: str
    before: dict[str, str]
    after: dict[str, str]


@pytest.fixture(scope="module")
def attempts(
    made: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> list[Attempt]:
    """Return the attempts of each stage on a disk with more and more room."""
    disk = tmp_path_factory.mktemp("disk")
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    workspace = Workspace(made.root)
    if (
        shutil.which("unshare") is None
        or workspace.run(
            *alone, "mount", "-t", "tmpfs", "tiny", str(disk), check=False
        ).returncode
    ):
        pytest.skip("this system lets no user mount a disk")
    workspace.environment["PYTHONPATH"] = str(PROJECT)
    done = workspace.run(
        *(*alone, "python", "-P", "-c", COUNT_UP),
        *(str(made.root), str(disk), json.dumps(OUTPUTS)),
    )
    return [Attempt(**json.loads(line)) for line in done.stdout.splitlines()]


def under(files: dict[str, str], name: str) -> dict[str, str]:
    """Return the files that make up an output."""
    return {
        path: digest
        for path, digest in files.items()
        if path == name or path.startswith(f"{name}/")
    }


@pytest.mark.parametrize("kind", ["bytes", "files"])
@pytest.mark.parametrize("stage", OUTPUTS)
def test_a_full_disk_ends_a_stage_and_leaves_the_old_results(
    made: Workspace, attempts: list[Attempt], stage: str, kind: str
) -> None:
    """At any write: there is room for all writes before it, and none for it."""
    new = digests(made.root)
    mine = [a for a in attempts if (a.stage, a.kind) == (stage, kind)]
    *failed, passed = mine

    assert passed.code == 0, passed.said
    for name in OUTPUTS[stage]:
        assert under(passed.after, name) == under(new, name)
    assert failed
    for attempt in failed:
        assert attempt.full
        assert attempt.code == 1
        (line,) = attempt.said.splitlines()
        assert line.startswith("error: no room left for ")
        assert line.endswith(": make room on its disk, then run the same command again")
        (named,) = [n for n in OUTPUTS[stage] if f"for {n}" in line]
        assert under(attempt.after, named) == under(attempt.before, named)
        for name in OUTPUTS[stage]:
            assert under(attempt.after, name) in (
                under(attempt.before, name),
                under(new, name),
            )
        assert attempt.after.keys() <= attempt.before.keys() | new.keys()
        assert not [name for name in attempt.after if name.endswith(".tmp")]
    # With no room at all, nothing has changed.
    assert failed[0].after == failed[0].before
