"""A damaged model directory: one message with the command that restores it."""

import json
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import VOCAB_SIZE, lively_model
from toygpt.data.tokenizer import END_OF_TEXT, save_tokenizer, train_tokenizer
from toygpt.model.huggingface import load_model, save_model
from toygpt.pipeline.errors import InputError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a model."""
    folder = tmp_path_factory.mktemp("saved")
    tokenizer = train_tokenizer([["some text"]], vocab_size=257)
    save_tokenizer(tokenizer, folder / "tokenizer", end_of_text=END_OF_TEXT)
    (folder / "model").mkdir()
    save_model(
        lively_model(vocab_size=VOCAB_SIZE, block_size=4),
        folder / "model",
        end_of_text_id=0,
        tokenizer_directory=folder / "tokenizer",
    )
    return folder / "model"


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """Return a copy of it, to damage."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def message_about(model: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_model(model)
    return str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.popitem(),
        lambda weights: weights.update(more=torch.zeros(1)),
        lambda weights: weights.update({"lm_head.bias": torch.zeros(3)}),
        lambda weights: weights.update(
            {"lm_head.bias": weights["lm_head.bias"].long()}
        ),
        lambda weights: weights.clear(),
    ],
    ids=["missing", "foreign", "another shape", "another type", "none"],
)
def test_weights_of_another_model_are_refused(
    model: Path, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    path = model / "model.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(weights)
    save_file(weights, path)

    message = message_about(model)

    assert message.startswith(f"{path} does not fit {model}/config.json: ")
    assert f"dvc checkout --force {model}" in message


def test_one_flipped_bit_in_the_header_of_the_weights_is_an_error_or_harmless(
    model: Path,
) -> None:
    """There is an error, or the model is the same."""
    path = model / "model.safetensors"
    intact = path.read_bytes()
    expected = load_model(model).state_dict()
    (length,) = struct.unpack("<Q", intact[:8])
    num_errors = 0
    for place in range(0, 8 + length, 61):
        content = bytearray(intact)
        content[place] ^= 1
        path.write_bytes(content)
        try:
            found = load_model(model).state_dict()
        except InputError as error:
            assert str(error).startswith((f"cannot read {path}", f"{path} does not"))
            num_errors += 1
        else:
            assert all(torch.equal(found[name], expected[name]) for name in expected)

    assert num_errors


@pytest.mark.parametrize(
    "change",
    [
        {"n_layer": 0},
        {"n_layer": True},
        {"n_layer": 20_000},
        {"n_head": 3},
        {"n_positions": 10**12},
        {"vocab_size": 10**30},
        {"n_embd": 7, "dff": 28},
        {"n_embd": -8, "dff": -32},
        {"resid_pdrop": "much"},
        {"resid_pdrop": float("nan")},
    ],
    ids=str,
)
def test_a_network_that_cannot_be_is_not_built(
    model: Path, change: dict[str, Any]
) -> None:
    path = model / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values | change), encoding="utf-8")
    began = time.process_time()

    message = message_about(model)

    assert str(path) in message
    assert time.process_time() - began < 1
