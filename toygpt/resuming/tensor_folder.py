"""Tensors that are split among ranks, in a folder: each rank writes a file of its own.

    __0_0.distcp    the rows that rank zero has, and so on
    .metadata       which rows of which tensor lie where

It is the format of `torch.distributed.checkpoint`. More or fewer ranks than have
written it can read it, and so can a single process.
"""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import naming
from toygpt.resuming.checkpoint import HOW_TO_START_OVER, METADATA_FILE, SavedFile

# What a `.metadata` consists of. It is a pickle, and any pickle may name a program.
OF_METADATA = {
    "torch": "Size float16 bfloat16 float32 float64 int32 int64",
    "torch.distributed.checkpoint.filesystem": "_StorageInfo",
    "torch.distributed.checkpoint.metadata": (
        "ChunkStorageMetadata Metadata MetadataIndex TensorProperties "
        "TensorStorageMetadata _MEM_FORMAT_ENCODING"
    ),
    "torch.serialization": "_get_layout",
}


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> list[SavedFile]:
    """Write tensors into an existing folder; all ranks call this together.

    Returns:
        The files of all ranks, each flushed to disk and digested by the rank that wrote
        it.

    Raises:
        OSError: A rank could not write. It is raised on all ranks.
    """
    writer = _Writer(folder)
    try:
        save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        raise _first_of(error) from None
    files: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(files, writer.files)
    return [file for of_a_rank in files for file in of_a_rank]


class _Writer(FileSystemWriter):
    """Digests the files of this rank once they are written, and flushed to disk."""

    files: list[SavedFile]

    def write_data(
        self, plan: SavePlan, planner: SavePlanner
    ) -> Future[list[WriteResult]]:
        folder = Path(self.path)
        with naming(folder):
            written = super().write_data(plan, planner)
            paths = sorted(folder.glob(f"{plan.storage_data.prefix}*"))
            self.files = [SavedFile.of(path) for path in paths]
        return written

    def storage_meta(self) -> None:
        """Leave out the path, which is not the one that the folder will have."""

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        super().finish(metadata, results)  # on rank zero
        self.files.append(SavedFile.of(Path(self.path) / METADATA_FILE))


class TensorFolder:
    """A folder that `write_tensors` has written.

    Raises:
        InputError: It is damaged, or holds a program.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._metadata = _Reader(folder).read_metadata()
            self.shapes: dict[str, Tensor] = {
                name: _without_numbers(tensor)
                for name, tensor in self._metadata.state_dict_metadata.items()
            }
        except OSError:
            raise
        except Exception:
            raise InputError(
                f"{folder / METADATA_FILE} is not of a checkpoint of toyGPT: it is "
                f"damaged, or holds a program (nothing of it was run); "
                f"{HOW_TO_START_OVER}"
            ) from None

    def read_into(self, tensors: Mapping[str, Tensor], *, together: bool) -> None:
        """Read tensors in place: their names and whole shapes are those of `shapes`.

        Args:
            tensors: Whole ones, or DTensors, of which each rank reads its rows.
            together: Whether all ranks call this at the same time. An error of one is
                raised on all then.
        """
        try:
            with warnings.catch_warnings():
                # A process that reads alone does so on purpose.
                warnings.filterwarnings("ignore", "torch.distributed is disabled")
                load(
                    dict(tensors),
                    storage_reader=_Reader(self.folder),
                    no_dist=not together,
                )
        except CheckpointException as error:
            raise _first_of(error) from None


class _Reader(FileSystemReader):
    """Reads the metadata without running a program that may be in it."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        with (Path(self.path) / METADATA_FILE).open("rb") as file:
            metadata: Metadata = _MetadataUnpickler(file).load()
        return metadata


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in OF_METADATA.get(module, "").split():
            raise pickle.UnpicklingError(f"{module}.{name} is not of a checkpoint")
        return super().find_class(module, name)


def _without_numbers(tensor: object) -> Tensor:
    # Anything but a tensor would be unpickled when it is read.
    if not isinstance(tensor, TensorStorageMetadata):
        raise TypeError("not a tensor")
    return torch.empty(tensor.size, dtype=tensor.properties.dtype, device="meta")


def _first_of(error: CheckpointException) -> BaseException:
    """Return the error of the first rank that failed."""
    failures = error.failures
    first, _ = failures[min(failures)]
    return first
