"""W&B's files are read as far as they were written."""

import os
from pathlib import Path

import pytest

from tests.tracking.trackers import RUN_ID, end_wandb, run_in, tracked_by
from toygpt.tracking.points import Point
from toygpt.tracking.wandb.files import WandbRun, folders_of, read_runs

NUM_STEPS = 500
HISTORY = [{"loss": step / 2, "step": step} for step in range(NUM_STEPS)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the file of a run that is too large for one block, as W&B wrote it."""
    root = tmp_path_factory.mktemp("wandb")
    tracking = tracked_by("wandb", tags={"mood": "good"})
    params = {"seed": 7, "text": "x" * 100_000}
    with pytest.raises(KeyboardInterrupt), run_in(root, tracking, params=params) as run:
        run.record.points += [
            Point(step, 0.0, {"loss": step / 2}) for step in range(NUM_STEPS)
        ]
        run.log_metrics({"parameters": 123.0})
        raise KeyboardInterrupt
    end_wandb()
    (path,) = root.glob("wandb/*run-*/*.wandb")
    return path.read_bytes()


def write(
    root: Path, data: bytes, name: str = "offline-run-1-abc", run_id: str = "abc"
) -> Path:
    path = root / "wandb" / name / f"run-{run_id}.wandb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def read(root: Path, data: bytes) -> WandbRun:
    write(root, data)
    (run,) = read_runs(root)
    return run


def test_a_run_of_any_size_is_read_as_a_whole(written: bytes, tmp_path: Path) -> None:
    run = read(tmp_path, written)

    assert (run.run_id, run.name) == (RUN_ID, "nano-python")
    assert run.config["text"] == "x" * 100_000, "longer than a block"
    assert run.config["seed"] == 7
    assert run.history == HISTORY
    assert run.summary["parameters"] == 123.0
    assert run.exit_code == 130


def test_a_file_that_was_cut_short_is_read_up_to_its_last_whole_record(
    written: bytes, tmp_path: Path
) -> None:
    lengths = sorted([3, 7, 9, 20] + [len(written) * part // 16 for part in range(16)])

    runs = [read(tmp_path, written[:length]) for length in lengths]

    num_steps = [len(run.history) for run in runs]
    assert num_steps == sorted(num_steps)
    assert (num_steps[0], num_steps[-1] > 0) == (0, True)
    for run in runs:
        assert run.history == HISTORY[: len(run.history)]
        assert run.exit_code is None


def test_nothing_after_damage_is_read(written: bytes, tmp_path: Path) -> None:
    data = bytearray(written)
    data[len(data) // 2] ^= 1

    run = read(tmp_path, bytes(data))

    assert 0 < len(run.history) < NUM_STEPS
    assert run.exit_code is None


@pytest.mark.parametrize("data", [b"", b":W&B", b"no log of W&B" * 9, b"\0" * 999])
def test_a_file_that_is_not_a_log_has_nothing(tmp_path: Path, data: bytes) -> None:
    assert read(tmp_path, data) == WandbRun()


def test_runs_are_found_by_their_id_oldest_first(
    written: bytes, tmp_path: Path
) -> None:
    """W&B puts a number behind a folder's name if there is one of that second."""
    write(tmp_path, written)
    older = write(tmp_path, b"", "offline-run-1-abc-1", "abc")
    os.utime(older, (0, 0))
    write(tmp_path, written, "run-2-xyz", "xyz")

    assert [run.run_id for run in read_runs(tmp_path, "abc")] == ["", RUN_ID]
    assert len(read_runs(tmp_path)) == 3
    assert len(read_runs(tmp_path, "xyz")) == 1
    assert read_runs(tmp_path, "other") == read_runs(tmp_path / "elsewhere") == []


def test_the_folders_of_a_run_are_not_those_of_another_id(tmp_path: Path) -> None:
    """A number at the end is W&B's own, or of the id: the file has the id alone."""
    day = "run-20260101_000000"
    for name, run_id in (
        (f"offline-{day}-abc", "abc"),
        (f"{day}-abc-1", "abc"),
        (f"{day}-abc-2", "abc-2"),
        (f"{day}-abc-2-1", "abc-2"),
        (f"{day}-xabc", "xabc"),
    ):
        write(tmp_path, b"", name, run_id)
    (tmp_path / "wandb" / f"{day}-abc-3").mkdir()

    found = {path.name for path in folders_of(tmp_path, "abc")}

    assert found == {f"offline-{day}-abc", f"{day}-abc-1", f"{day}-abc-3"}
    found = {path.name for path in folders_of(tmp_path, "abc-2")}
    assert found == {f"{day}-abc-2", f"{day}-abc-2-1"}
