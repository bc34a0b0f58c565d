"""A stage ends with one message when the user's input or the system refuses."""

import io
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.project import PROJECT
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.stage import report_error, run

NO_ROOM = (
    "error: no room left for {}: make room on its disk, then run the same command again"
)


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (InputError("got 1"), "error: got 1"),
        (KeyboardInterrupt(), 130),
        (OSError(28, "No space left on device", "a"), NO_ROOM.format("a")),
        # Standard output may be a file on a full disk.
        (OSError(122, "Disk quota exceeded"), NO_ROOM.format("the output")),
        (PermissionError(13, "Permission denied", "a"), "error: a: Permission denied"),
        (OSError("odd"), "error: the output: odd"),
    ],
    ids=repr,
)
def test_an_error_ends_a_stage_with_one_message(
    error: BaseException, ending: object
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(Mock(side_effect=error))

    assert ended.value.code == ending


def test_a_terminal_that_lacks_a_character_shows_its_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding="ascii"))

    run(lambda: print("é", flush=True))

    assert terminal.getvalue() == b"\\xe9\n"


@pytest.mark.parametrize(
    ("module", "is_fault"), [("torch.nn", False), ("toygpt.x", True), ("stages", True)]
)
def test_a_missing_package_is_one_line_and_a_missing_module_of_ours_a_traceback(
    capsys: pytest.CaptureFixture[str], module: str, is_fault: bool
) -> None:
    error = ModuleNotFoundError(f"No module named {module!r}", name=module)

    report_error(type(error), error, None)

    line = capsys.readouterr().err
    assert line.startswith("ModuleNotFoundError: " if is_fault else "error: ")
    assert is_fault or "has no package 'torch': put `uv run` before" in line


def test_a_stage_that_lacks_its_input_ends_without_a_traceback(tmp_path: Path) -> None:
    """In a process of its own, as DVC runs it."""
    ended = subprocess.run(
        [sys.executable, "-m", "stages.split"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
    )

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"error: params.yaml not found in {tmp_path}")
    assert len(ended.stderr.splitlines()) == 1


def test_a_stage_that_a_profiler_starts_for_dvc_is_not_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python then names another script than "-m" while it imports the stages."""
    monkeypatch.setenv("DVC_STAGE", "any")
    program = (
        "import time; from toygpt.pipeline.stage import run; run(lambda: time.sleep(1))"
    )

    assert subprocess.run([sys.executable, "-c", program], cwd=PROJECT).returncode == 0
