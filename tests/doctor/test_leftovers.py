"""The doctor after a killed experiment: in Git, among DVC's files, and among ours."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.doctor.conftest import Visit
from tests.faults.kills import started, wait_until
from tests.project import Workspace
from toygpt.doctor.leftovers import work_in
from toygpt.pipeline.files import new_file

EDIT = "\nan edit of mine\n"


def kill_when(
    project: Workspace, condition: Callable[[], bool], *arguments: str
) -> None:
    """Kill `dvc exp run` on a condition, and wait until its stage has ended."""
    with started(project, "dvc", "exp", "run", *arguments) as dvc:
        while not condition():
            assert dvc.is_running, dvc.output
            time.sleep(0.001)
        dvc.send(signal.SIGKILL)
        assert dvc.wait() == -signal.SIGKILL
        wait_until(lambda: work_in(project.root) is None)


# DVC stashes the edits twice, as they are and with the options -S, and applies them
# after each. This DVC kills itself when all is stashed: a test that polls for that
# state may come too early, or too late.
KILLED_WHILE_ALL_IS_STASHED = """
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


def branch(project: Workspace) -> str:
    return project.run("git", "branch", "--show-current").stdout


def references(project: Workspace) -> str:
    return project.run("git", "for-each-ref", "--format=%(refname)").stdout


@pytest.mark.slow
def test_an_experiment_killed_in_the_workspace_is_cleared_away(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    edit_readme(project)
    record = project.root / ".dvc/tmp/exps/run/workspace/workspace.json"
    kill_when(project, record.exists, "split", "-S", "split.key=7")
    assert "refs/exps/exec/EXEC_MERGE" in references(project)
    assert branch(project) == ""

    result = visit()
    result.text_of("HEAD is off its branch main")
    result.text_of("DVC left refs/exps/exec/EXEC_BASELINE")
    result.text_of("DVC has a record of an experiment")

    fixed = visit(fix=True)
    assert fixed.page.count("fixed: ") >= 3
    assert "!!" not in fixed.page.partition("\ntrainings")[0], fixed.page
    assert branch(project) == "main\n"
    assert "EXEC_MERGE" not in references(project)
    assert (project.root / "README.md").read_text().endswith(EDIT)
    assert project.run("git", "stash", "list").stdout == ""

    project.dvc("exp", "run", "split", "-n", "again", "-S", "split.key=8")
    assert branch(project) == "main\n"
    assert (project.root / "README.md").read_text().endswith(EDIT)
    assert "again" in references(project)


@pytest.mark.slow
def test_the_folder_of_a_killed_temporary_experiment_is_removed(
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

    visit().text_of("of a temporary experiment: its process is gone")
    assert visit(fix=True).code == 0
    assert not list(standalone.glob("tmp*"))
    assert (project.root / "README.md").read_text().endswith(EDIT)


def test_the_folder_of_a_queued_experiment_is_left_to_the_queue(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    """Without the folder `dvc exp show` fails, until the queue drops the task."""
    experiments = project.root / ".dvc/tmp/exps"
    folder = experiments / "tmpabc"
    folder.mkdir(parents=True)
    record = {"location": "dvc-task", "status": 2, "root_dir": str(folder), "name": "q"}
    (experiments / "run/abc").mkdir(parents=True)
    (experiments / "run/abc/abc.run").write_text(json.dumps(record))

    result = visit(fix=True)

    assert folder.is_dir()
    command = result.command("of the queued experiment q: its process is gone")
    assert command == "dvc queue kill q && rm -rf .dvc/tmp/exps/tmpabc"


@pytest.mark.slow
def test_edits_that_a_killed_experiment_stashed_come_back(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    readme = project.root / "README.md"
    before = readme.read_text()
    edit_readme(project)
    stash = project.root / ".git/refs/stash"

    program = (sys.executable, "-c", KILLED_WHILE_ALL_IS_STASHED)
    experiment = ("exp", "run", "split", "-S", "split.key=7")
    killed = project.run(*program, *experiment, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert readme.read_text() == before

    result = visit(fix=True)
    assert stash.exists(), "a stash is the user's"

    project.run("sh", "-c", result.command("has edits that an experiment stashed"))
    assert readme.read_text() == before + EDIT
    assert visit(fix=True).code == 0


def test_edits_that_only_a_leftover_of_dvc_has_are_kept(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    """For a moment DVC alone has the edits, in a reference."""
    edit_readme(project)
    commit = project.run("git", "stash", "create").stdout.strip()
    project.run("git", "update-ref", "refs/exps/exec/EXEC_MERGE", commit)
    project.run("git", "checkout", "--", ".")

    visit().text_of("it had another README.md than there is now")

    assert visit(fix=True).code == 0
    assert "EXEC_MERGE" not in references(project)
    project.run("git", "stash", "pop")
    assert (project.root / "README.md").read_text().endswith(EDIT)


def test_commits_that_no_branch_has_are_rescued(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    project.run("git", "checkout", "--quiet", "--detach")
    project.run("git", "commit", "--quiet", "--allow-empty", "--message", "mine")

    result = visit(fix=True)
    project.run("sh", "-c", result.command("no branch has its commit"))
    assert "mine" in project.run("git", "log", "--all", "--oneline").stdout

    # An earlier commit is not lost: a branch has it.
    project.run("git", "checkout", "--quiet", "--detach", "HEAD~2")
    result = visit()
    assert result.code == 0
    assert "which main has" in result.text


def test_while_dvc_is_at_work_none_of_its_files_is_examined(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    project.run("git", "checkout", "--quiet", "--detach")
    # What the doctor knows a DVC by: its name, and the folder that it works in.
    program = project.root / "dvc"
    program.write_text("import time\ntime.sleep(600)\n")
    with started(project, sys.executable, str(program)) as dvc:
        result = visit(fix=True)

    assert result.code == 0
    assert f"process {dvc.process.pid} is at work" in result.text
    assert branch(project) == ""


@pytest.mark.slow
def test_files_that_a_killed_dvc_left_are_removed_or_restored(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    """Locks of its process, half of a lock's file and of dvc.lock, an empty folder."""
    process = subprocess.Popen("true")
    process.wait()
    holder = {"pid": process.pid, "cmd": "dvc exp run"}
    stale = project.root / ".dvc/tmp/exps/rwlock"
    stale.parent.mkdir(exist_ok=True)
    stale.write_text(json.dumps({"write": {"models": holder}, "read": {"a": [holder]}}))
    (project.root / ".dvc/tmp/rwlock").write_text('{"wri')
    lock = project.root / "dvc.lock"
    whole = lock.read_bytes()
    lock.write_bytes(whole[: len(whole) // 2] + b"\n  - {")
    folder = project.root / ".dvc/cache/runs/ab" / ("ab" * 32)
    folder.mkdir(parents=True)
    assert project.dvc("repro", "split", check=False).returncode

    result = visit()
    result.text_of(f"locks of a DVC that is gone (process {process.pid})")
    result.text_of(".dvc/tmp/rwlock is damaged")
    result.text_of("dvc.lock is damaged")
    result.text_of("is empty: DVC fails on it")

    assert visit(fix=True).code == 0
    assert lock.read_bytes() == whole
    assert not folder.exists()
    project.dvc("repro", "split")


def test_a_merge_conflict_is_left_to_the_user(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    lock = project.root / "dvc.lock"
    conflict = f"<<<<<<< HEAD\n{lock.read_text()}=======\n>>>>>>> other\n"
    lock.write_text(conflict)

    result = visit(fix=True)

    assert result.command("dvc.lock has a merge conflict").startswith("git checkout")
    assert "dvc.lock cannot be read: see dvc above" in result.text
    assert "could not be examined" not in result.text
    assert lock.read_text() == conflict


def test_temporary_files_of_killed_processes_are_removed(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    """There are processes of these ids: a writer is known by its lock."""
    torn = project.root / f"models/.toygpt.{os.getpid()}.tmp"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    moved_aside = project.root / f"data/.splits.{os.getppid()}.old.tmp"
    (project.root / "data/splits").rename(moved_aside)

    with new_file(project.root / "reports/notes.txt"):
        (being_written,) = (project.root / "reports").glob(".notes.txt.*.tmp")
        result = visit()
        result.text_of(f"models/.toygpt.{os.getpid()}.tmp was never finished")
        result.text_of("data/splits was being replaced")

        assert visit(fix=True).code == 0
        assert not torn.exists()
        assert being_written.exists()
        assert (project.root / "data/splits/manifest.json").exists()


def test_an_unknown_identity_and_a_path_that_is_not_a_url_are_findings(
    project: Workspace, visit: Callable[..., Visit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They keep DVC from running experiments."""
    for name in ("NAME", "EMAIL"):
        monkeypatch.delenv(f"GIT_COMMITTER_{name}")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    moved: Path = project.root.rename(project.root.with_name("c#"))

    result = visit(root=moved)

    for key in ("name", "email"):
        command = result.command("your name and email")
        assert f"git config --global user.{key}" in command
    assert result.command("--temp and queue do not work") == f"mv '{moved}' ~/toyGPT"
