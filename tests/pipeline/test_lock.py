"""The lock between processes: one holder, known by name, gone with its process."""

import fcntl
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.isolation import can_isolate
from tests.project import PROJECT
from toygpt.pipeline import lock
from toygpt.pipeline.lock import AlreadyLockedError, Holder, holder_of, locked

HOLD = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from toygpt.pipeline.lock import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "lock"


def test_the_holder_is_known_while_it_holds(path: Path) -> None:
    assert holder_of(path) is None
    assert not path.parent.exists(), "to ask makes nothing"

    with locked(path):
        holder = holder_of(path)
        with (
            pytest.raises(AlreadyLockedError, match=f"process {os.getpid()} holds "),
            locked(path, wait=False),
        ):
            pass

    assert holder is not None and holder.process == os.getpid()
    assert holder_of(path) is None


@pytest.mark.skipif(not can_isolate(), reason="this machine has no namespaces")
def test_the_holder_of_another_host_is_known_with_its_name(path: Path) -> None:
    """A process id alone would name a process of the wrong machine."""
    script = 'hostname node7 && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--uts", "sh", "-c", script]
    with subprocess.Popen(
        [*command, "sh", sys.executable, "-c", HOLD, str(path)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"

        with pytest.raises(AlreadyLockedError, match=r"process \d+ on node7 holds "):
            locked(path, wait=False).__enter__()
        process.kill()


def test_a_killed_process_holds_nothing(path: Path) -> None:
    command, pipe = [sys.executable, "-c", HOLD, str(path)], subprocess.PIPE
    with subprocess.Popen(command, cwd=PROJECT, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyLockedError) as refused, locked(path, wait=False):
            pass
        process.kill()

    assert refused.value.holder.process == process.pid
    assert holder_of(path) is None
    with locked(path, wait=False):
        assert holder_of(path) is not None


def test_a_process_on_another_host_is_named_with_its_host(path: Path) -> None:
    with locked(path):
        path.write_text("123 elsewhere\n")
        assert str(holder_of(path)) == "process 123 on elsewhere"
        path.write_text("")
        assert str(holder_of(path)) == "another process"


def test_a_child_does_not_inherit_the_lock(path: Path) -> None:
    reader, writer = os.pipe()
    with locked(path):
        child = os.fork()
        if not child:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)

    os.close(reader)
    assert holder_of(path) is None, "the child is alive, and holds nothing"
    os.close(writer)
    os.waitpid(child, 0)


def test_processes_that_ask_are_not_holders(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`resume` and `doctor` ask for the lock: no trainer is refused for that."""
    with locked(path):
        pass
    asking = path.open()
    fcntl.flock(asking, fcntl.LOCK_SH)
    answers = []

    def answer(path: Path) -> Holder | None:
        answers.append(holder_of(path))
        asking.close()
        return answers[-1]

    assert holder_of(path) is None
    monkeypatch.setattr(lock, "holder_of", answer)

    with locked(path, wait=False):
        assert answers == [None]


@pytest.mark.parametrize("is_moved", [True, False], ids=["moved", "removed"])
def test_a_lock_whose_folder_goes_is_locked_at_its_place_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_moved: bool
) -> None:
    """Between opening and locking, the holder before removes the folder."""
    flock = fcntl.flock
    moved = path.parent.with_name("moved")

    def late(file: int, kind: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.parent.rename(moved)
        if not is_moved:
            shutil.rmtree(moved)
        flock(file, kind)

    monkeypatch.setattr(fcntl, "flock", late)

    with locked(path, wait=False):
        assert moved.exists() == is_moved
        assert holder_of(path) is not None


def test_holders_take_turns(tmp_path: Path) -> None:
    """The kernel locks an open file: for it, a thread's is like another process's."""
    count = tmp_path / "count"
    count.write_text("0")

    def add_one(_: int) -> None:
        with locked(tmp_path / "lock"):
            count.write_text(str(int(count.read_text()) + 1))

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(add_one, range(60)))

    assert count.read_text() == "60"
