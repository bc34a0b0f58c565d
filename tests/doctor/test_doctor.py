"""The doctor, in projects that are really ill: killed, flipped, torn, left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.kills import started, wait_until
from tests.project import Workspace, tiny_project
from tests.tiny import ABSENT_ACCELERATOR
from toygpt.doctor import page
from toygpt.doctor.finding import Finding
from toygpt.doctor.leftovers import work_in
from toygpt.doctor.page import doctor
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import DigestedFile, new_file
from toygpt.resuming.run_folder import (
    Description,
    RunFolder,
    run_folders_root,
)
from toygpt.tracking.record import Record

EDIT = "\nan edit of mine\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project with all but the last two stages done, and no tracker told."""
    workspace = tiny_project(tmp_path_factory.mktemp("built") / "project")
    workspace.set_params({"tracking.mlflow": False, "tracking.wandb": "disabled"})
    workspace.commit("untracked")
    workspace.dvc("repro", "train")
    workspace.commit("first results")
    return workspace


@pytest.fixture
def project(
    built: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """A copy of that project, to be made ill."""
    copy = Workspace(tmp_path / "project")
    subprocess.run(["cp", "-a", str(built.root), str(copy.root)], check=True)
    for name, value in copy.environment.items():
        if name.startswith(("DVC_SITE_CACHE_DIR", "PATH", "GIT_")):
            monkeypatch.setenv(name, value)
    return copy


class Visit:
    """What the doctor printed, and the exit code."""

    def __init__(self, code: int, page: str) -> None:
        self.code = code
        self.page = page
        self.text = " ".join(page.split())  # without the breaks of its lines

    def remedy(self, problem: str) -> str:
        """Return the command below a finding."""
        below = self.text_of(problem)
        return below.splitlines()[-1].strip()

    def text_of(self, problem: str) -> str:
        """Return a finding with its command, as it is printed."""
        for part in self.page.split("\n  !!  ")[1:]:
            lines = part.splitlines()
            command = next(n for n, line in enumerate(lines) if line[:8] == " " * 8)
            if problem in " ".join(" ".join(lines[:command]).split()):
                return "\n".join(lines[: command + 1])
        raise AssertionError(f"no finding {problem!r}:\n{self.page}")


@pytest.fixture
def visit(
    project: Workspace, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Visit]:
    """Return how to call the doctor."""

    def visit(*, fix: bool = False, root: Path = project.root) -> Visit:
        capsys.readouterr()
        code = doctor(root, fix=fix)
        page = capsys.readouterr().out
        assert ("!!" in page) == bool(code)
        return Visit(code, page)

    return visit


def kill_when(
    project: Workspace, has_come: Callable[[], bool], *arguments: str
) -> None:
    """Kill `dvc exp run` with SIGKILL once something has come; wait for its stage."""
    with started(project, "dvc", "exp", "run", *arguments) as dvc:
        while not has_come():
            assert dvc.is_running, dvc.output
            time.sleep(0.001)
        dvc.send(signal.SIGKILL)
        assert dvc.wait() == -signal.SIGKILL
        wait_until(lambda: work_in(project.root) is None)


# DVC puts the edits away twice, as they are and with the options -S, and lays them out
# after each. This DVC is killed when all is put away, by itself: a test that polls for
# that state may come too early, or too late.
KILLED_WHILE_ALL_IS_PUT_AWAY = """
import os
import signal

from dvc.cli import main
from scmrepo.git import Stash

Stash.pop = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
main()
"""


def edit_readme(project: Workspace) -> None:
    with (project.root / "README.md").open("a") as file:
        file.write(EDIT)


def references(project: Workspace) -> str:
    return project.run("git", "for-each-ref", "--format=%(refname)").stdout


def flip_a_bit(path: Path) -> None:
    """Damage a file as a disk would: neither its size nor its time changes."""
    before = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_project_that_is_well_is_told_so(visit: Callable[..., Visit]) -> None:
    """The last two stages did not run here yet: that is no illness."""
    page = visit()

    assert page.code == 0, page.page
    assert page.page.endswith("\nAll is well.\n")
    for words in ("cores", "of memory", "of the disk", "torch", "on branch main"):
        assert words in page.text
    assert (
        "not built yet: metrics/evaluate.json, reports/samples, "
        "metrics/generate-samples.json; to build: `dvc repro`"
    ) in page.text
    assert all(len(line) < 100 for line in page.page.splitlines()[1:])


def test_a_fresh_clone_is_well(
    project: Workspace, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    project.run("git", "clone", "--quiet", ".", str(tmp_path / "clone"))

    page = visit(root=tmp_path / "clone")

    assert page.code == 0, page.page
    assert "not built yet; to build: `dvc repro`" in page.text


def test_work_in_progress_is_no_illness(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    edit_readme(project)
    project.set_params({"train.learning_rate": 0.5})
    (project.root / "toygpt/generation/samples.py").write_text("# rewritten\n")
    project.run("git", "stash")
    project.run("git", "stash", "apply")

    assert visit().code == 0


def test_outside_a_project_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no toyGPT project"):
        doctor(tmp_path, fix=False)


def test_an_experiment_killed_in_the_workspace_is_cleared_away(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    edit_readme(project)
    note = project.root / ".dvc/tmp/exps/run/workspace/workspace.json"
    kill_when(project, note.exists, "split", "-S", "split.key=7")
    assert "refs/exps/exec/EXEC_MERGE" in references(project)
    assert project.run("git", "branch", "--show-current").stdout == ""

    page = visit()
    assert page.code == 1
    page.text_of("HEAD is off its branch main")
    page.text_of("DVC left refs/exps/exec/EXEC_BASELINE")
    page.text_of("DVC's note of an experiment")

    mended = visit(fix=True)
    assert mended.page.count("mended: ") >= 3
    assert "!!" not in mended.page.partition("\ntrainings")[0], mended.page
    assert project.run("git", "branch", "--show-current").stdout == "main\n"
    assert "EXEC_MERGE" not in references(project)
    assert (project.root / "README.md").read_text().endswith(EDIT)
    assert project.run("git", "stash", "list").stdout == ""

    project.dvc("exp", "run", "split", "-n", "again", "-S", "split.key=8")
    assert project.run("git", "branch", "--show-current").stdout == "main\n"
    assert (project.root / "README.md").read_text().endswith(EDIT)
    assert "again" in references(project)


def test_a_killed_temporary_experiment_is_swept(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    edit_readme(project)
    standalone = project.root / ".dvc/tmp/exps/standalone"
    kill_when(
        project,
        lambda: any(standalone.glob("tmp*/dvc.yaml")),
        *("--temp", "split", "-S", "split.key=7"),
    )
    assert list(standalone.glob("tmp*"))

    page = visit()
    assert page.code == 1
    page.text_of("of a temporary experiment: nobody runs it now")

    assert visit(fix=True).code == 0
    assert not list(standalone.glob("tmp*"))
    assert (project.root / "README.md").read_text().endswith(EDIT)


def test_the_folder_of_a_queued_experiment_is_left_to_the_queue(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    """Without the folder `dvc exp show` fails, until the queue lets go of the task."""
    experiments = project.root / ".dvc/tmp/exps"
    folder = experiments / "tmpabc"
    folder.mkdir(parents=True)
    note = {"location": "dvc-task", "status": 2, "root_dir": str(folder), "name": "q"}
    (experiments / "run/abc").mkdir(parents=True)
    (experiments / "run/abc/abc.run").write_text(json.dumps(note))

    page = visit(fix=True)

    assert folder.is_dir()
    remedy = page.remedy("of the queued experiment q: nobody runs it now")
    assert remedy == "dvc queue kill q && rm -rf .dvc/tmp/exps/tmpabc"


def test_edits_that_a_killed_experiment_put_away_come_back(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    readme = project.root / "README.md"
    before = readme.read_text()
    edit_readme(project)
    stash = project.root / ".git/refs/stash"

    killed = project.run(
        *(sys.executable, "-c", KILLED_WHILE_ALL_IS_PUT_AWAY),
        *("exp", "run", "split", "-S", "split.key=7"),
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert stash.exists()
    assert readme.read_text() == before

    page = visit(fix=True)
    assert page.code == 1
    assert stash.exists(), "what is in a stash is the user's"

    project.run("sh", "-c", page.remedy("has edits that an experiment put away"))
    assert readme.read_text() == before + EDIT
    assert visit(fix=True).code == 0


def test_edits_that_only_a_leftover_of_dvc_has_are_kept(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    """Between laying a stash out and after it, DVC alone has the edits."""
    edit_readme(project)
    commit = project.run("git", "stash", "create").stdout.strip()
    project.run("git", "update-ref", "refs/exps/exec/EXEC_MERGE", commit)
    project.run("git", "checkout", "--", ".")

    visit().text_of("it had README.md otherwise than it is now")

    assert visit(fix=True).code == 0
    assert "EXEC_MERGE" not in references(project)
    project.run("git", "stash", "pop")
    assert (project.root / "README.md").read_text().endswith(EDIT)


def test_commits_that_no_branch_has_are_rescued(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    project.run("git", "checkout", "--quiet", "--detach")
    project.run("git", "commit", "--quiet", "--allow-empty", "--message", "mine")

    page = visit(fix=True)
    assert page.code == 1
    project.run("sh", "-c", page.remedy("no branch has its commit"))

    assert visit().code == 0
    assert "mine" in project.run("git", "log", "--all", "--oneline").stdout


def test_looking_at_an_earlier_commit_is_no_illness(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    project.run("git", "commit", "--quiet", "--allow-empty", "--message", "later")
    project.run("git", "checkout", "--quiet", "--detach", "HEAD~1")

    page = visit()

    assert page.code == 0
    assert "which main has" in page.text


def test_while_dvc_is_at_work_nothing_of_it_is_judged(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    project.run("git", "checkout", "--quiet", "--detach")
    # What the doctor knows a DVC by: its name, and the folder that it works in.
    program = project.root / "dvc"
    program.write_text("import time\ntime.sleep(600)\n")
    process = subprocess.Popen([sys.executable, str(program)], cwd=project.root)
    try:
        page = visit(fix=True)
    finally:
        process.kill()
        process.wait()

    assert page.code == 0
    assert f"process {process.pid} is at work" in page.text
    assert project.run("git", "branch", "--show-current").stdout == ""


@pytest.mark.parametrize("name", [".dvc/tmp/rwlock", ".dvc/tmp/exps/rwlock"])
def test_a_lock_of_a_dead_process_is_removed(
    project: Workspace, visit: Callable[..., Visit], dead_process: int, name: str
) -> None:
    holder = {"pid": dead_process, "cmd": "dvc exp run"}
    path = project.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"write": {"models": holder}, "read": {"a": [holder]}}))

    visit().text_of(f"locks of a DVC that is gone (process {dead_process})")

    assert visit(fix=True).code == 0
    project.dvc("status")


def test_a_torn_lock_file_is_removed(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    (project.root / ".dvc/tmp/rwlock").write_text('{"wri')
    assert project.dvc("repro", "--force", "split", check=False).returncode

    visit().text_of(".dvc/tmp/rwlock is damaged")

    assert visit(fix=True).code == 0
    project.dvc("repro", "split")


def test_results_of_dvc_s_own_that_it_never_finished_are_put_right(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    """A killed DVC leaves half of a dvc.lock, or a folder of its run cache empty."""
    lock = project.root / "dvc.lock"
    whole = lock.read_bytes()
    lock.write_bytes(whole[: len(whole) // 2] + b"\n  - {")
    folder = project.root / ".dvc/cache/runs/ab" / ("ab" * 32)
    folder.mkdir(parents=True)
    assert project.dvc("repro", "split", check=False).returncode

    page = visit()
    page.text_of("dvc.lock is damaged")
    page.text_of("is empty: DVC stumbles over it")

    assert visit(fix=True).code == 0
    assert lock.read_bytes() == whole
    assert not folder.exists()
    project.dvc("repro", "split")


@pytest.fixture
def dead_process() -> int:
    """Return the id of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_files_that_nobody_goes_on_writing_are_removed(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    """There are processes of these ids: it is by their locks that writers are known."""
    torn = project.root / f"models/.toygpt.{os.getpid()}.tmp"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    moved_aside = project.root / f"data/.splits.{os.getppid()}.old.tmp"
    (project.root / "data/splits").rename(moved_aside)

    with new_file(project.root / "reports/notes.txt"):
        (being_written,) = (project.root / "reports").glob(".notes.txt.*.tmp")
        page = visit()
        page.text_of(f"models/.toygpt.{os.getpid()}.tmp was never finished")
        page.text_of("data/splits was being replaced")

        assert visit(fix=True).code == 0
        assert not torn.exists()
        assert being_written.exists()
        assert (project.root / "data/splits/manifest.json").exists()


@pytest.fixture
def unfinished(project: Workspace) -> RunFolder:
    """A training with two checkpoints, which nobody goes on with."""
    training = RunFolder(run_folders_root(project.root) / ("ab" * 16))
    description = Description("mine", "run", time.time(), None, False, {}, {}, 50)
    training.write_description(description)
    for step in (10, 20):
        training.save(step, lambda file: write_weights(file))
    return training


def write_weights(file: DigestedFile) -> None:
    file.write(b"weights" * 1000)


def test_a_training_is_unfinished_until_it_is_done(
    unfinished: RunFolder, visit: Callable[..., Visit]
) -> None:
    page = visit(fix=True)
    assert page.code == 1
    assert page.remedy("mine: step 20 of 50, 14.6 kB; interrupted") == "python . resume"
    assert len(unfinished.checkpoints()) == 2, "nobody's work is thrown away"

    with unfinished.locked():
        page = visit()
        assert page.code == 0
        assert f"process {os.getpid()} trains it now" in page.text

    unfinished.remove()
    assert visit().code == 0


def test_damaged_checkpoints_are_named(
    unfinished: RunFolder, visit: Callable[..., Visit]
) -> None:
    flip_a_bit(unfinished.folder / "step-20.ckpt")
    page = visit()
    assert page.remedy("step-20.ckpt is damaged") == "python . resume"
    assert "it goes on from step 10" in page.text

    (unfinished.folder / "step-10.ckpt").unlink()
    assert visit().remedy("step-10.ckpt is missing") == "python . train --fresh"

    (unfinished.folder / "LATEST.json").write_text("{")
    assert visit().remedy("LATEST.json is damaged") == "python . train --fresh"


def new_record(project: Workspace, *, status: str = "RUNNING") -> Record:
    record = Record.create(
        project.root,
        name="mine",
        project="toygpt",
        params={},
        tags={},
        trackers=["mlflow"],
        status=status,
    )
    record.append({"train_loss": 2.0}, step=1)
    return record


def test_the_trackers_are_told_what_they_missed_and_lost(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    project.set_params({"tracking.mlflow": True})
    record = new_record(project)  # its process is gone, and it says RUNNING
    visit().text_of("1 run that the trackers do not know all of: mine")

    assert visit(fix=True).code == 0
    assert Record(record.folder).info.status == "KILLED"
    assert "mlflow.db is whole" in visit().text

    database = project.root / "mlflow.db"
    data = bytearray(database.read_bytes())
    data[4096:20480] = os.urandom(16384)
    database.write_bytes(data)
    page = visit(fix=True)
    assert page.code == 1
    assert database.read_bytes() == bytes(data), "it is not touched"

    project.run("sh", "-c", page.remedy("mlflow.db is damaged"))
    assert visit().code == 0
    assert "mlflow.db is whole" in visit().text

    database.unlink()
    remedy = visit().remedy("mlflow.db is gone, and had runs")
    assert remedy == "python . track --rebuild"


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl"])
def test_a_damaged_record_is_named_and_put_aside(
    project: Workspace, visit: Callable[..., Visit], name: str
) -> None:
    damaged = new_record(project, status="FINISHED").folder / name
    damaged.write_text('{"version": \n')

    page = visit(fix=True)
    assert page.code == 1
    assert damaged.exists()
    project.run("sh", "-c", page.remedy(name))

    assert visit().code == 0


def test_a_server_open_to_everyone_is_a_finding(
    visit: Callable[..., Visit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HOST", "0.0.0.0")
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "*")

    page = visit()

    assert page.remedy("MLFLOW_HOST=0.0.0.0") == "unset MLFLOW_HOST"
    page.text_of("MLFLOW_SERVER_ALLOWED_HOSTS=*")


def test_a_flipped_bit_is_found_and_mended(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    project.dvc("status")  # DVC looks at the files of this copy, and remembers them
    flip_a_bit(project.root / "data/tokens/tokens.bin")
    assert project.dvc("status", "tokenize").stdout.strip().endswith("up to date.")

    page = visit(fix=True)
    assert page.code == 1
    remedy = page.remedy("data/tokens is not what tokenize wrote: tokens.bin changed")
    assert remedy == "rm -r data/tokens && dvc checkout data/tokens"
    project.run("sh", "-c", remedy)

    assert visit().code == 0


def test_a_bit_that_flipped_in_the_cache_too_is_mended(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    """After `dvc checkout` a file may be the same one as in the cache."""
    tokens = project.root / "data/splits/train.bin"
    (copy,) = (
        path
        for path in (project.root / ".dvc/cache/files/md5").rglob("*")
        if path.is_file() and path.read_bytes() == tokens.read_bytes()
    )
    tokens.unlink()
    tokens.hardlink_to(copy)
    flip_a_bit(tokens)

    page = visit()
    remedy = page.remedy("data/splits is not what split wrote: train.bin changed")
    assert "dvc repro --force --single-item split" in remedy
    project.run("sh", "-c", remedy)

    assert visit().code == 0


def test_damage_in_the_cache_alone_is_found(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    model = project.root / "models/toygpt/model.safetensors"
    (copy,) = (
        path
        for path in (project.root / ".dvc/cache/files/md5").rglob("*")
        if path.is_file() and path.read_bytes() == model.read_bytes()
    )
    flip_a_bit(copy)

    project.run("sh", "-c", visit().remedy("DVC's copy of models/toygpt is damaged"))

    assert visit().code == 0
    assert copy.read_bytes() == model.read_bytes()


def test_what_was_deleted_or_changed_by_hand_is_brought_back(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    shutil.rmtree(project.root / "models/toygpt")
    metrics = project.root / "metrics/train.json"
    metrics.write_text(metrics.read_text().replace("0", "1"))

    page = visit(fix=True)
    assert page.code == 1
    for problem in ("models/toygpt is missing", "metrics/train.json is not what train"):
        project.run("sh", "-c", page.remedy(problem))

    assert visit().code == 0


def test_token_files_that_belie_their_manifest_are_made_anew(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    flip_a_bit(project.root / "data/tokens/tokens.bin")
    (project.root / "data/tokens/tokens.bin").touch()
    project.dvc("commit", "--force", "data/tokens")

    project.run("sh", "-c", visit().remedy("tokens.bin is damaged"))

    assert visit().code == 0


def test_what_keeps_dvc_from_running_experiments_is_a_finding(
    project: Workspace, visit: Callable[..., Visit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An identity that Git does not know, and a path that is not an address."""
    for name in ("NAME", "EMAIL"):
        monkeypatch.delenv(f"GIT_COMMITTER_{name}")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    moved = project.root.rename(project.root.with_name("c#"))

    page = visit(root=moved)

    for key in ("name", "email"):
        assert f"git config --global user.{key}" in page.remedy("your name and email")
    assert page.remedy("--temp and queue do not work") == f"mv '{moved}' ~/toyGPT"


def test_an_accelerator_that_is_absent_is_a_finding(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    project.set_params({"runtime.accelerator": ABSENT_ACCELERATOR})

    visit().text_of(
        f"the accelerator '{ABSENT_ACCELERATOR}' is not available here, only"
    )


def test_invalid_parameters_are_a_finding(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    project.set_params({"train.learning_rate": -1.0})
    visit().text_of("train.learning_rate: got -1.0")

    (project.root / "params.yaml").write_text("train: [")
    visit().text_of("params.yaml is not valid YAML")


def test_a_home_directory_that_dvc_would_not_find_is_a_finding(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    project.set_params({"corpora.files.folder": "~/texts"})

    problem = visit().text_of("DVC does not expand the `~` of corpora.files.folder")

    assert f"write {Path.home() / 'texts'}" in " ".join(problem.split())


def test_a_check_that_fails_is_a_finding(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    (project.root / "dvc.yaml").write_text("stages: [")

    page = visit(fix=True)

    assert page.remedy("could not be examined") == "dvc status"


def test_a_merge_conflict_is_left_to_the_user(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    lock = project.root / "dvc.lock"
    conflict = f"<<<<<<< HEAD\n{lock.read_text()}=======\n>>>>>>> other\n"
    lock.write_text(conflict)

    page = visit(fix=True)

    assert page.remedy("dvc.lock has a merge conflict").startswith("git checkout HEAD")
    assert "dvc.lock cannot be read: see dvc above" in page.text
    assert "could not be examined" not in page.text
    assert lock.read_text() == conflict


def test_a_remedy_that_fails_leaves_its_finding(
    visit: Callable[..., Visit], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError("no")

    def check(root: Path) -> Iterator[Finding]:
        yield Finding("it hurts", "sleep", refuse)

    monkeypatch.setattr(page, "CHECKS", [("body", check, "")])

    assert visit(fix=True).remedy("it hurts") == "sleep"
