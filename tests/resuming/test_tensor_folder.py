"""A checkpoint that is a folder: its damages, and its place among the others."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from tests.resuming.test_checkpoint import DAMAGES, Program
from toygpt.pipeline.errors import InputError
from toygpt.resuming.checkpoint import METADATA_FILE, CheckpointFolder
from toygpt.resuming.tensor_folder import TensorFolder, write_tensors


@pytest.fixture
def saved(tmp_path: Path) -> CheckpointFolder:
    """Return checkpoints, of which one is a folder, written by a group of one rank."""
    folder = CheckpointFolder(tmp_path / "checkpoints")
    folder.folder.mkdir()
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        with folder.new_folder(4, {"step": 4}) as new:
            new.files.extend(write_tensors(new.path, {"weights": torch.ones(3, 2)}))
    finally:
        distributed.destroy_process_group()
    return folder


def test_tensors_are_read_into_their_places(saved: CheckpointFolder) -> None:
    (checkpoint,) = saved.checkpoints()
    contents = saved.load(checkpoint)
    place = torch.zeros(3, 2)

    contents["tensors"].read_into({"weights": place}, together=False)

    assert contents["step"] == 4
    assert torch.equal(place, torch.ones(3, 2))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("number", range(3))
def test_damage_of_any_file_is_found(
    saved: CheckpointFolder, number: int, damage: Any
) -> None:
    (checkpoint,) = saved.checkpoints()
    name = checkpoint.files[number].name

    damage(saved.folder / name)

    found = saved.damage_of(checkpoint)
    assert found is not None
    assert found.startswith(f"{name} is ")


def test_a_folder_makes_room_for_newer_checkpoints_like_a_file(
    saved: CheckpointFolder,
) -> None:
    saved.save(5, {})
    assert [entry.name for entry in saved.checkpoints()] == ["step-5.ckpt", "step-4"]

    saved.save(6, {})

    names = {path.name for path in saved.folder.glob("[!.]*")}
    assert names == {"LATEST.json", "step-5.ckpt", "step-6.ckpt"}


def test_a_program_in_the_metadata_is_refused(
    saved: CheckpointFolder, tmp_path: Path
) -> None:
    (checkpoint,) = saved.checkpoints()
    folder = saved.path_of(checkpoint)
    canary = tmp_path / "canary"
    (folder / METADATA_FILE).write_bytes(pickle.dumps(Program(canary)))

    with pytest.raises(InputError, match=r"holds a program \(nothing of it was run"):
        TensorFolder(folder)

    assert not canary.exists()
