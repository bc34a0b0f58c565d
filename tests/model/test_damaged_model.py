"""A damaged model directory: one message, with the command that restores it."""

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.model.saved import save
from toygpt.data.tokenizer import END_OF_TEXT, save_tokenizer, train_tokenizer
from toygpt.model.huggingface import load_config, load_end_of_text_id, load_model
from toygpt.model.loading import load_model_and_tokenizer
from toygpt.pipeline.errors import InputError

EMBEDDING, BIAS = "transformer.w.weight", "lm_head.bias"


def message_about(model: Path, load: Callable[[Path], object] = load_model) -> str:
    with pytest.raises(InputError) as caught:
        load(model)
    return str(caught.value)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    for load in (load_model, load_end_of_text_id):
        message = message_about(tmp_path / "nowhere", load)
        assert message.startswith(f"{tmp_path}/nowhere holds no model: ")
        assert "config.json is missing" in message


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        *(
            lambda path, n=num_bytes: path.write_bytes(path.read_bytes()[:n])
            for num_bytes in (0, 7, 100, 10_000)
        ),
        lambda path: path.write_bytes(b"\xff" * path.stat().st_size),
    ],
    ids=["missing", "empty", "7 bytes", "100 bytes", "10 kB", "noise"],
)
def test_damaged_weights_are_named(copy: Path, damage: Callable[[Path], Any]) -> None:
    path = copy / "model.safetensors"
    damage(path)

    assert message_about(copy).startswith(f"cannot read {path}: ")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda weights: weights.popitem(), "numbers instead of"),
        (lambda weights: weights.update(more=torch.zeros(1)), "numbers instead of"),
        (lambda weights: weights.update({BIAS: weights[BIAS].long()}), f"{BIAS} first"),
        (
            lambda weights: weights.update({EMBEDDING: weights[EMBEDDING].T}),
            f"1 weights are .*, {EMBEDDING} first",
        ),
        # Greedy text of them would be rubbish, without a warning.
        (lambda weights: weights[BIAS].fill_(torch.nan), "NaN or infinite"),
        (lambda weights: weights[BIAS][3].fill_(torch.inf), "NaN or infinite"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(
    copy: Path, change: Callable[[dict[str, Tensor]], object], problem: str
) -> None:
    path = copy / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file({name: part.contiguous() for name, part in weights.items()}, path)

    with pytest.raises(InputError, match=f"^{path} .*{problem}.*checkout --force"):
        load_model(copy)


@pytest.mark.parametrize("change", [{"num_layers": 1}, {"embed_dim": 16}])
def test_weights_of_another_size_are_refused(
    copy: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    other = save(tmp_path / "other", **change).directory
    path = (other / "model.safetensors").replace(copy / "model.safetensors")

    assert message_about(copy).startswith(f"{path} does not fit {copy}/config.json: ")


def test_one_flipped_bit_in_the_header_is_an_error_or_harmless(copy: Path) -> None:
    path = copy / "model.safetensors"
    intact = path.read_bytes()
    expected = load_model(copy).state_dict()
    (length,) = struct.unpack("<Q", intact[:8])
    num_errors = 0
    for place in range(0, 8 + length, 61):
        content = bytearray(intact)
        content[place] ^= 1
        path.write_bytes(content)
        try:
            found = load_model(copy).state_dict()
        except InputError as error:
            assert str(error).startswith((f"cannot read {path}", f"{path} does not"))
            num_errors += 1
        else:
            assert all(torch.equal(found[name], expected[name]) for name in expected)

    assert num_errors


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gpt2"},
        {"dff": 8192},  # the original CTRL has its own width
        {"n_layer": None},
        {"n_layer": 0},
        {"n_layer": True},
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
def test_another_architecture_is_refused(copy: Path, change: dict[str, Any]) -> None:
    path = copy / "config.json"
    values = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))

    message = message_about(copy, load_config)

    assert message.startswith(f"{path} describes no toyGPT model: ")


def test_a_network_that_the_weights_do_not_fill_is_not_built(copy: Path) -> None:
    """A damaged number of layers would take minutes, and all memory."""
    path = copy / "config.json"
    path.write_text(path.read_text().replace('"n_layer": 2', '"n_layer": 20000'))
    began = time.process_time()

    assert "numbers instead of" in message_about(copy)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\x00", b"\xff\xfe"])
def test_a_damaged_config_is_refused(copy: Path, content: bytes) -> None:
    path = copy / "config.json"
    path.write_bytes(content)

    for load in (load_model, load_end_of_text_id):
        assert f"{path} describes no toyGPT model" in message_about(copy, load)


# transformers allows a list, but `generate` does not.
@pytest.mark.parametrize("value", [..., None, "0", 0.5, True, [0, 1]])
def test_a_config_without_an_end_of_text_is_refused(
    tmp_path: Path, value: object
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({} if value is ... else {"eos_token_id": value}))

    message = message_about(tmp_path, load_end_of_text_id)

    assert message.startswith(f"{path} names no eos_token_id, but ")


def test_a_model_with_another_tokenizer_is_refused(copy: Path, tmp_path: Path) -> None:
    other = train_tokenizer([["another text"]], vocab_size=260)
    save_tokenizer(other, tmp_path / "other", end_of_text=END_OF_TEXT)
    (tmp_path / "other" / "tokenizer.json").replace(copy / "tokenizer.json")

    with pytest.raises(InputError, match=r"predicts 270 tokens, but .* has 260: they"):
        load_model_and_tokenizer(copy, torch.device("cpu"))
