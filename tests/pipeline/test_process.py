"""The process of a stage: it ends with its DVC, and keeps the memory that it freed."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.faults.kills import is_gone, wait_until
from tests.project import PROJECT
from toygpt.pipeline.process import (
    ENVIRONMENT,
    keep_freed_memory,
    without_garbage_collection,
)

STAGE = """
import os, signal, sys, time
from pathlib import Path
from toygpt.pipeline import process as processes
from toygpt.pipeline.process import end_with_dvc, find_dvc

processes.POLL_SECONDS = 0.05
folder = Path(sys.argv[1])

def stop(number, frame):
    (folder / "signal").write_text(str(number))
    sys.exit(7)

signal.signal(signal.SIGTERM, stop)
end_with_dvc(find_dvc())
(folder / "pid").write_text(str(os.getpid()))
while not (folder / "may end").exists():
    time.sleep(processes.POLL_SECONDS)
time.sleep(10 * processes.POLL_SECONDS)
(folder / "end").write_text("")
"""
# DVC waits for its stage, which a shell starts that may stay or not.
DVC = """
import subprocess, sys
sys.exit(subprocess.call(sys.argv[1:]))
"""


def dvc(
    folder: Path, *, through_shell: bool, is_dvc: bool = True
) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    """Start a process in the place of DVC, and wait until its stage runs."""
    stage = [sys.executable, "-c", STAGE, str(folder)]
    # A second command keeps the shell from becoming the first one.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *stage] if through_shell else stage
    environment = {
        name: value for name, value in os.environ.items() if name != "DVC_STAGE"
    }
    process = subprocess.Popen(
        [sys.executable, "-c", DVC, *command],
        cwd=PROJECT,
        env=environment | ({"DVC_STAGE": "train"} if is_dvc else {}),
    )
    pid = folder / "pid"
    wait_until(lambda: pid.exists() and pid.read_text())
    return process, psutil.Process(int(pid.read_text()))


@pytest.mark.parametrize(
    ("through_shell", "number"), [(False, signal.SIGTERM), (True, signal.SIGKILL)]
)
def test_a_stage_whose_dvc_is_killed_gets_a_sigterm(
    tmp_path: Path, through_shell: bool, number: signal.Signals
) -> None:
    process, stage = dvc(tmp_path, through_shell=through_shell)

    process.send_signal(number)
    process.wait()
    wait_until(lambda: is_gone(stage))

    assert (tmp_path / "signal").read_text() == str(int(signal.SIGTERM))
    assert not (tmp_path / "end").exists()


@pytest.mark.parametrize("through_shell", [False, True])
def test_a_stage_whose_dvc_lives_comes_to_its_end(
    tmp_path: Path, through_shell: bool
) -> None:
    process, _ = dvc(tmp_path, through_shell=through_shell)

    (tmp_path / "may end").touch()
    assert process.wait() == 0
    assert (tmp_path / "end").exists()
    assert not (tmp_path / "signal").exists()


def test_a_stage_that_was_started_by_hand_outlives_its_shell(tmp_path: Path) -> None:
    process, stage = dvc(tmp_path, through_shell=False, is_dvc=False)

    process.kill()
    process.wait()
    (tmp_path / "may end").touch()
    wait_until(lambda: is_gone(stage))

    assert (tmp_path / "end").exists()
    assert not (tmp_path / "signal").exists()


@pytest.mark.parametrize("was_enabled", [True, False])
def test_garbage_collection_is_restored_also_after_an_error(was_enabled: bool) -> None:
    if not was_enabled:
        gc.disable()
    try:
        with pytest.raises(ImportError), without_garbage_collection():
            assert not gc.isenabled()
            raise ImportError

        assert gc.isenabled() is was_enabled
    finally:
        gc.enable()


FAULTS = """
import resource
from toygpt.pipeline.process import keep_freed_memory

def use_and_free() -> None:
    blocks = [bytearray(8_000_000) for _ in range(5)]
    for block in blocks:
        block[::4096] = b"x" * len(range(0, len(block), 4096))

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        use_and_free()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_freed_memory()
use_and_free()
print(given_back, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="nothing happens on other systems")
def test_memory_is_asked_for_once() -> None:
    """Each page that Linux hands out is a fault, whether it was ours before or not."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )

    given_back, kept = map(int, done.stdout.split())

    assert given_back > 10_000  # or there would be nothing to gain
    assert kept < given_back / 10


def test_pytorch_finds_the_setting_of_large_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "0")

    keep_freed_memory()

    assert os.environ.items() >= ENVIRONMENT.items()
