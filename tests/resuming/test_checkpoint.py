"""Checkpoints: two are kept, a damaged one is never trusted, a program never run."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import DigestedFile, sha256_of
from toygpt.resuming.checkpoint import Checkpoint, CheckpointFolder


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    """A folder with two checkpoints, of the steps 3 and 6."""
    folder = CheckpointFolder(tmp_path / "training")
    folder.keep([])
    save(folder, 3, 6)
    return folder


def save(folder: CheckpointFolder, *steps: int) -> None:
    for step in steps:
        folder.save(step, {"step": step, "weights": {"a": torch.full((9,), step)}})


def steps_of(folder: CheckpointFolder) -> list[int]:
    return [checkpoint.step for checkpoint in folder.checkpoints()]


def files_of(folder: CheckpointFolder) -> list[str]:
    return sorted(path.name for path in folder.folder.iterdir())


def best_step(folder: CheckpointFolder) -> int | None:
    best = folder.best_checkpoint()
    return best.step if best else None


def test_two_checkpoints_are_kept_at_most(folder: CheckpointFolder) -> None:
    assert files_of(folder) == ["LATEST.json", "step-3.ckpt", "step-6.ckpt"]

    save(folder, 9)

    assert files_of(folder) == ["LATEST.json", "step-6.ckpt", "step-9.ckpt"]
    assert steps_of(folder) == [9, 6]


def test_a_checkpoint_comes_back_as_it_was(folder: CheckpointFolder) -> None:
    values = {
        "tensors": {"a": torch.arange(5), "b": torch.tensor(0.1, dtype=torch.bfloat16)},
        "rows": [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None}],
        "name": "adamw",
    }
    folder.save(9, values)

    best = folder.best_checkpoint()
    assert best is not None
    loaded = folder.load(best)

    assert loaded["tensors"]["b"].dtype == torch.bfloat16
    for name, tensor in values["tensors"].items():  # type: ignore[attr-defined]
        assert torch.equal(loaded["tensors"][name], tensor)
    assert {**loaded, "tensors": 0} == {**values, "tensors": 0}


def test_a_checkpoint_of_the_same_step_replaces_the_one_there_is(
    folder: CheckpointFolder,
) -> None:
    folder.save(6, {"another": True})

    best = folder.best_checkpoint()
    assert best is not None
    assert folder.load(best) == {"another": True}
    assert steps_of(folder) == [6, 3]


def test_a_checkpoint_that_cannot_be_written_leaves_those_before(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(folder)
    write = DigestedFile.write

    def fail(file: DigestedFile, data: bytes) -> int:
        if file.num_bytes:
            raise RuntimeError("of any kind")
        return write(file, data)

    monkeypatch.setattr(DigestedFile, "write", fail)

    with pytest.raises(RuntimeError):
        save(folder, 9)

    assert files_of(folder) == before
    assert steps_of(folder) == [6, 3]


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "truncated": lambda path: os.truncate(path, 10),
    "lengthened": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "one bit": flip_a_bit,
    "deleted": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_but_never_to_a_new_start(
    folder: CheckpointFolder, capsys: pytest.CaptureFixture[str], damage: Any
) -> None:
    damage(folder.folder / "step-6.ckpt")

    assert best_step(folder) == 3
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"WARNING: {folder.folder / 'step-6.ckpt'} is ")
    assert second == "WARNING: falling back to step 3"

    damage(folder.folder / "step-3.ckpt")
    with pytest.raises(InputError, match=r"no checkpoint .* can be trusted.*--fresh"):
        folder.best_checkpoint()


@pytest.mark.parametrize(("saved", "kept"), [([7], [7, 3]), ([6, 9], [9, 6])])
def test_a_damaged_checkpoint_does_not_count_until_its_step_is_saved_again(
    folder: CheckpointFolder, saved: list[int], kept: list[int]
) -> None:
    flip_a_bit(folder.folder / "step-6.ckpt")
    assert best_step(folder) == 3

    save(folder, *saved)

    assert steps_of(folder) == kept
    assert best_step(folder) == kept[0]


def test_where_none_was_saved_there_is_none(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path).best_checkpoint() is None


ENTRY = {"step": 3, "sha256": "", "bytes": 1}


@pytest.mark.parametrize(
    "checkpoints",
    [
        None,
        [1],
        [{"step": 3}],
        [ENTRY | {"step": "x"}],
        [ENTRY | {"bytes": "many"}],
        [ENTRY | {"file": "../../secret"}],
    ],
)
def test_a_damaged_list_of_checkpoints_is_refused(
    folder: CheckpointFolder, checkpoints: object
) -> None:
    text = json.dumps({"version": 2, "checkpoints": checkpoints})
    (folder.folder / "LATEST.json").write_text(text)

    with pytest.raises(InputError, match=r"LATEST\.json is damaged.*--fresh"):
        save(folder, 9)

    assert {"step-3.ckpt", "step-6.ckpt"} <= set(files_of(folder))


def test_a_lost_list_of_checkpoints_does_not_start_over_in_silence(
    folder: CheckpointFolder,
) -> None:
    (folder.folder / "LATEST.json").unlink()

    with pytest.raises(InputError, match=r"is lost, and step-3\.ckpt, step-6\.ckpt"):
        folder.best_checkpoint()

    folder.keep([])
    assert files_of(folder) == ["LATEST.json"]


class Program:
    """What a pickle runs when it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.canary),))


@pytest.mark.parametrize("kind", ["torch", "pickle", "text", "empty"])
def test_a_program_is_refused_though_its_digest_is_right(
    folder: CheckpointFolder, tmp_path: Path, kind: str
) -> None:
    canary = tmp_path / "canary"
    path = folder.folder / "step-6.ckpt"
    if kind == "torch":
        torch.save({"program": Program(canary)}, path)
    else:
        program = pickle.dumps(Program(canary))
        path.write_bytes({"pickle": program, "text": b"state", "empty": b""}[kind])
    newest, before = folder.checkpoints()
    forged = replace(newest, sha256=sha256_of(path), bytes=path.stat().st_size)
    folder.keep([forged, before])

    best = folder.best_checkpoint()
    assert best == forged, "its digest is right"
    with pytest.raises(InputError, match=r"step-6\.ckpt is not a checkpoint of toyGPT"):
        folder.load(best)

    assert not canary.exists()
    if kind == "torch":  # the program works
        torch.load(path, weights_only=False)
        assert canary.exists()


def test_a_checkpoint_that_vanishes_is_an_error_of_the_system(tmp_path: Path) -> None:
    """Not a damaged file: no advice to start over."""
    with pytest.raises(FileNotFoundError):
        CheckpointFolder(tmp_path).load(Checkpoint(3, "", 1))
