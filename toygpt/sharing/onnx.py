"""The model as an ONNX file, for runtimes that know nothing of PyTorch.

The file computes the logits of every position, for batches and texts of any size up to
the block. It is compared with the network before it is put in its place.
"""

import logging
import shutil
import warnings
from pathlib import Path

import torch
from torch import Tensor

from toygpt.model.gpt import GPT
from toygpt.model.huggingface import WEIGHTS_FILE
from toygpt.model.loading import load_model_and_tokenizer
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import new_directory

ONNX_FILE = "model.onnx"
LEFT_OUT = (WEIGHTS_FILE, "README.md", "generation_config.json")
# Between logits. Sums in another order differ by rounding: 1e-5 in models of ours.
TOLERANCE = 1e-3


def export_onnx(source: Path, target: Path) -> float:
    """Write a model as ONNX, with its tokenizer.

    Args:
        source: The model directory.
        target: The directory to write; one of an earlier export is replaced.

    Returns:
        The largest difference between a logit of the file and of the network.

    Raises:
        InputError: There is no model, the target holds other files, or the exported
            file computes something else.
    """
    model = load_model_and_tokenizer(source, torch.device("cpu")).model
    beside = [
        path
        for path in sorted(source.iterdir())
        if path.is_file()
        and not path.name.startswith(".")
        and path.name not in LEFT_OUT
    ]
    _check_target(target, {ONNX_FILE, f"{ONNX_FILE}.data", *(p.name for p in beside)})
    with new_directory(target) as directory:
        _write(model, directory / ONNX_FILE)
        difference = largest_difference(model, directory / ONNX_FILE)
        for path in beside:
            shutil.copyfile(path, directory / path.name)
    return difference


def _check_target(target: Path, names: set[str]) -> None:
    """Raise an error where writing the target would remove files of the user."""
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"--out {target} is a file: choose a folder")
    if others := {path.name for path in target.iterdir()} - names:
        raise InputError(
            f"--out {target} holds other files ({min(others)}): choose a new folder"
        )


def _write(model: GPT, path: Path) -> None:
    """Write the network as ONNX, with its batch size and its time left open."""
    open_sizes = {
        0: torch.export.Dim("batch", min=1),
        1: torch.export.Dim("time", min=1, max=model.config.block_size),
    }
    # Of sizes that the exporter does not take for constants.
    example = torch.zeros(2, min(3, model.config.block_size), dtype=torch.long)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of what PyTorch will remove some day
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["input_ids"],
            output_names=["logits"],
            dynamic_shapes={"token_ids": open_sizes},
        )
    assert program is not None
    program.save(path)


def largest_difference(model: GPT, path: Path) -> float:
    """Return by how much the logits of a file differ from the network's, at most.

    Raises:
        InputError: They differ by more than rounding.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    largest = 0.0
    for token_ids in _examples(model):
        with torch.no_grad():
            expected = model(token_ids)
        (found,) = session.run(["logits"], {"input_ids": token_ids.numpy()})
        difference = (torch.from_numpy(found) - expected).abs().max().item()
        if not difference <= TOLERANCE:  # also if it is NaN
            raise InputError(
                f"{path.name} differs from the network by {difference:.1e} in a logit, "
                f"for token ids of the shape {tuple(token_ids.shape)}: not exported"
            )
        largest = max(largest, difference)
    return largest


def _examples(model: GPT) -> list[Tensor]:
    """Return random token ids: one and many texts, of one token up to a whole block."""
    block = model.config.block_size
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(model.config.vocab_size, shape, generator=generator)
        for shape in [(1, 1), (1, block), (3, block // 2), (5, min(7, block))]
    ]
