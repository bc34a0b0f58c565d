"""Checkpoints: two are kept, a damaged one is never trusted, a program never run."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.resuming.folders import files_of, steps_of
from toygpt.pipeline.errors import InputError
from toygpt.resuming.checkpoint import (
    VERSION,
    Checkpoint,
    CheckpointFolder,
    SavedFile,
)


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    """A folder with two checkpoints, of the steps 3 and 6."""
    folder = CheckpointFolder(tmp_path / "training")
    folder.remove_all_but([])
    save(folder, 3, 6)
    return folder


def save(folder: CheckpointFolder, *steps: int) -> None:
    for step in steps:
        folder.save(step, {"step": step, "weights": {"a": torch.full((9,), step)}})


def best_of(folder: CheckpointFolder) -> Checkpoint:
    best = folder.best_checkpoint()
    assert best is not None
    return best


def test_two_checkpoints_are_kept_at_most(folder: CheckpointFolder) -> None:
    assert files_of(folder) == ["LATEST.json", "step-3.ckpt", "step-6.ckpt"]

    save(folder, 9)

    assert files_of(folder) == ["LATEST.json", "step-6.ckpt", "step-9.ckpt"]
    assert steps_of(folder) == [9, 6]


@pytest.mark.parametrize(("step", "kept"), [(9, [9, 6]), (6, [6, 3])])
def test_a_checkpoint_comes_back_as_it_was_and_replaces_that_of_the_same_step(
    folder: CheckpointFolder, step: int, kept: list[int]
) -> None:
    tensor = torch.tensor(0.1, dtype=torch.bfloat16)
    rest = {"rows": [{"step": 1, "loss": 2.5}, {"loss": None}], "name": "adamw"}
    folder.save(step, {"tensors": {"b": tensor}, **rest})

    loaded = folder.load(best_of(folder))

    torch.testing.assert_close(loaded.pop("tensors"), {"b": tensor}, rtol=0, atol=0)
    assert loaded == rest
    assert steps_of(folder) == kept


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

    assert best_of(folder).step == 3
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
    assert best_of(folder).step == 3

    save(folder, *saved)

    assert steps_of(folder) == kept
    assert best_of(folder).step == kept[0]


FILE = {"name": "step-3.ckpt", "sha256": "", "bytes": 1}
ENTRY = {"step": 3, "files": [FILE]}


@pytest.mark.parametrize(
    "checkpoints",
    [
        None,
        [{"step": 3}],
        [ENTRY | {"step": "x"}],
        [ENTRY | {"files": []}],
        [ENTRY | {"files": [FILE | {"name": "../../secret"}]}],
    ],
)
def test_a_damaged_list_of_checkpoints_is_refused(
    folder: CheckpointFolder, checkpoints: object
) -> None:
    text = json.dumps({"version": VERSION, "checkpoints": checkpoints})
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

    folder.remove_all_but([])
    assert files_of(folder) == ["LATEST.json"]


class Program:
    """A pickle that makes a folder when it is read."""

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
    program = pickle.dumps(Program(canary))
    path.write_bytes({"pickle": program, "text": b"state"}.get(kind, b""))
    if kind == "torch":
        torch.save({"program": Program(canary)}, path)
    newest, before = folder.checkpoints()
    forged = replace(newest, files=(SavedFile.of(path),))
    folder.remove_all_but([forged, before])

    assert best_of(folder) == forged, "its digest is right"
    with pytest.raises(InputError, match=r"step-6\.ckpt is not a checkpoint of toyGPT"):
        folder.load(forged)

    assert not canary.exists()
    if kind == "torch":  # the program works
        torch.load(path, weights_only=False)
        assert canary.exists()


def test_a_checkpoint_that_vanishes_is_an_error_of_the_system(tmp_path: Path) -> None:
    """Not a damaged file: no advice to start over."""
    with pytest.raises(FileNotFoundError):
        CheckpointFolder(tmp_path).load(
            Checkpoint(3, (SavedFile("step-3.ckpt", "", 1),))
        )


@pytest.mark.parametrize("name", ["step-4/../../secret", "step-4/x", "/etc/passwd"])
def test_a_list_with_names_of_other_files_is_refused(tmp_path: Path, name: str) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(4, {})
    path = tmp_path / "LATEST.json"
    path.write_text(path.read_text().replace("step-4.ckpt", name))

    with pytest.raises(InputError, match=r"LATEST\.json is damaged"):
        folder.checkpoints()
