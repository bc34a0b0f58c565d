"""What W&B has written is read back, as far as it was written."""

from pathlib import Path

import pytest

from toygpt.tracking.wandb_files import WandbRun, read_runs

NUM_STEPS = 2_000


@pytest.fixture(scope="module")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a run that is too large for one block, as W&B wrote it."""
    import wandb

    root = tmp_path_factory.mktemp("wandb")
    run = wandb.init(
        project="toy",
        id="abc",
        name="nano",
        dir=root,
        mode="offline",
        tags=["mood: good"],
        config={"seed": 7, "text": "x" * 100_000, "nested": {"key": 1}},
        settings=wandb.Settings(console="off", disable_git=True, silent=True),
        reinit="create_new",
    )
    for step in range(NUM_STEPS):
        run.log({"loss": step / 2, "step": step})
    run.summary.update({"parameters": 123.0})
    run.finish(exit_code=3)
    wandb.teardown()
    (path,) = root.glob("wandb/*run-*/*.wandb")
    return path


def read(path: Path, data: bytes) -> WandbRun:
    """Return what is read of a file that holds these bytes."""
    folder = path / "wandb" / "offline-run-1-abc"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run-abc.wandb").write_bytes(data)
    (run,) = read_runs(path)
    return run


def test_all_of_a_run_is_read_whatever_its_size(log_file: Path, tmp_path: Path) -> None:
    run = read(tmp_path, log_file.read_bytes())

    assert (run.run_id, run.project, run.name) == ("abc", "toy", "nano")
    assert run.tags == ["mood: good"]
    assert run.config["text"] == "x" * 100_000, "longer than a block"
    assert run.config["seed"] == 7
    assert run.history == [
        {"loss": step / 2, "step": step} for step in range(NUM_STEPS)
    ]
    assert run.summary["parameters"] == 123.0
    assert run.exit_code == 3


def test_a_file_that_was_cut_short_is_read_up_to_its_last_whole_record(
    log_file: Path, tmp_path: Path
) -> None:
    data = log_file.read_bytes()
    lengths = [len(data) * part // 40 for part in range(40)] + [3, 7, 9, 20]

    runs = [read(tmp_path, data[:length]) for length in sorted(lengths)]

    num_steps = [len(run.history) for run in runs]
    assert num_steps == sorted(num_steps)
    assert 0 < num_steps[-1] < NUM_STEPS + 1
    assert num_steps[0] == 0
    for run in runs:
        expected = [{"loss": step / 2, "step": step} for step in range(NUM_STEPS)]
        assert run.history == expected[: len(run.history)]
        assert run.exit_code is None


def test_what_follows_damage_is_not_believed(log_file: Path, tmp_path: Path) -> None:
    data = bytearray(log_file.read_bytes())
    data[len(data) // 2] ^= 1

    run = read(tmp_path, bytes(data))

    assert 0 < len(run.history) < NUM_STEPS
    assert run.exit_code is None


@pytest.mark.parametrize("data", [b"", b":W&B", b"no log of W&B" * 9, b"\0" * 999])
def test_what_is_no_log_holds_nothing(tmp_path: Path, data: bytes) -> None:
    assert read(tmp_path, data) == WandbRun()


def test_a_run_that_is_opened_twice_in_one_second_is_found_whole(
    log_file: Path, tmp_path: Path
) -> None:
    """W&B puts a number behind the name of the second folder."""
    read(tmp_path, log_file.read_bytes())
    second = tmp_path / "wandb" / "offline-run-1-abc-1"
    second.mkdir()
    (second / "run-abc.wandb").write_bytes(log_file.read_bytes())

    assert len(read_runs(tmp_path, "abc")) == 2


def test_one_run_of_many_is_found_by_its_id(log_file: Path, tmp_path: Path) -> None:
    read(tmp_path, log_file.read_bytes())
    other = tmp_path / "wandb" / "run-2-xyz"
    other.mkdir()
    (other / "run-xyz.wandb").write_bytes(log_file.read_bytes())

    assert len(read_runs(tmp_path)) == 2
    assert len(read_runs(tmp_path, "xyz")) == 1
    assert read_runs(tmp_path, "nobody") == read_runs(tmp_path / "elsewhere") == []
