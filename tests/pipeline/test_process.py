"""The process of a stage: it ends with its DVC, and keeps the memory that it freed."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from tests.faults.kills import is_gone, wait_until
from tests.project import PROJECT
from toygpt.pipeline import process as processes
from toygpt.pipeline.process import (
    ENVIRONMENT,
    end_with_dvc,
    find_dvc,
    keep_freed_memory,
    without_garbage_collection,
)

STAGE = """
import os, signal, sys, time
from pathlib import Path
from toygpt.pipeline import process as processes

def stop(number, frame):
    Path(sys.argv[1]).write_text(str(number))
    sys.exit(7)

signal.signal(signal.SIGTERM, stop)
processes.POLL_SECONDS = 0.05
processes.end_with_dvc(processes.find_dvc())
print(os.getpid(), flush=True)
time.sleep(600)
"""
# DVC waits for its stage, which a shell starts that may stay or not.
DVC = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"


def kill_dvc_of(command: list[str], number: signal.Signals) -> None:
    """Start a stage, which prints its process id; end its DVC, and wait for it."""
    with subprocess.Popen(
        [sys.executable, "-c", DVC, *command],
        cwd=PROJECT,
        env=os.environ | {"DVC_STAGE": "train"},
        stdout=subprocess.PIPE,
    ) as dvc:
        assert dvc.stdout is not None
        stage = psutil.Process(int(dvc.stdout.readline()))
        dvc.send_signal(number)
    wait_until(lambda: is_gone(stage))


@pytest.mark.parametrize(
    ("through_shell", "number"), [(False, signal.SIGTERM), (True, signal.SIGKILL)]
)
def test_a_stage_whose_dvc_is_killed_gets_a_sigterm(
    tmp_path: Path, through_shell: bool, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", STAGE, str(tmp_path / "signal")]
    if through_shell:  # a second command keeps it from becoming the first one
        command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    kill_dvc_of(command, number)

    assert (tmp_path / "signal").read_text() == str(int(signal.SIGTERM))


LAUNCHER = """
import os, sys
from toygpt.pipeline.process import end_launcher_with_dvc

end_launcher_with_dvc()
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
"""
WAIT_FOR_SIGTERM = """
import os, signal, sys

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print(os.getpid(), flush=True)
signal.sigwait({signal.SIGTERM})
open(sys.argv[1], "w").close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="nothing happens on other systems")
def test_the_program_that_takes_the_place_of_a_stage_gets_a_sigterm_as_well(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", LAUNCHER, WAIT_FOR_SIGTERM, str(tmp_path / "got")]
    kill_dvc_of(command, signal.SIGKILL)

    assert (tmp_path / "got").exists()


def test_a_stage_that_was_started_by_hand_outlives_its_shell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "Thread", thread := Mock())

    end_with_dvc(find_dvc())

    assert not thread.called


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

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        [b"x" * 8_000_000 for _ in range(5)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_freed_memory()
faults()
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
