"""The model directory: what `save_model` writes, `load_model` reads, or refuses."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.saved import Saved, save
from tests.tiny import lively_model, random_tokens
from toygpt.data.tokenizer import END_OF_TEXT, save_tokenizer, train_tokenizer
from toygpt.model.huggingface import (
    load_config,
    load_end_of_text_id,
    load_model,
    save_model,
    weights_digest,
)
from toygpt.model.loading import load_model_and_tokenizer
from toygpt.pipeline.errors import InputError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save(tmp_path_factory.mktemp("saved"), end_of_text_id=42)


@pytest.fixture
def copy(saved: Saved, tmp_path: Path) -> Path:
    """Return a copy of the model directory, for one test to damage."""
    return Path(shutil.copytree(saved.directory, tmp_path / "copy"))


def test_a_loaded_model_gives_the_very_same_logits(tmp_path: Path) -> None:
    """With more than ten blocks, whose names have to keep their order."""
    saved = save(tmp_path, num_layers=12, dropout=0.5)
    tokens = random_tokens(2, 16)

    loaded = load_model(saved.directory)

    assert torch.equal(loaded(tokens), saved.model(tokens))
    assert loaded.config == saved.model.config
    assert not loaded.training
    assert loaded.to_logits.weight is loaded.token_embedding.weight


def test_a_model_comes_with_its_tokenizer(saved: Saved) -> None:
    model, tokenizer, end_of_text_id = load_model_and_tokenizer(
        saved.directory, torch.device("cpu")
    )

    assert model.config == saved.model.config
    assert tokenizer.encode("def").ids == saved.tokenizer.encode("def").ids
    assert end_of_text_id == 42


def test_a_model_with_another_tokenizer_is_refused(copy: Path, tmp_path: Path) -> None:
    other = train_tokenizer([["another text"]], vocab_size=260)
    save_tokenizer(other, tmp_path / "other", end_of_text=END_OF_TEXT)
    (tmp_path / "other" / "tokenizer.json").replace(copy / "tokenizer.json")

    with pytest.raises(InputError, match=r"predicts 270 tokens, but .* has 260: they"):
        load_model_and_tokenizer(copy, torch.device("cpu"))


def test_the_directory_holds_a_checkpoint_and_its_tokenizer(saved: Saved) -> None:
    weights_file = saved.directory / "model.safetensors"

    assert {path.name for path in saved.directory.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "vocab.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert weights_file.stat().st_mode & 0o777 == 0o644, "others may not read it"
    num_weights = sum(tensor.numel() for tensor in load_file(weights_file).values())
    assert num_weights == saved.model.num_parameters, "the tied matrix is there twice"


def test_the_same_model_is_written_to_the_same_bytes(tmp_path: Path) -> None:
    first, second = save(tmp_path / "1").directory, save(tmp_path / "2").directory
    other = save(tmp_path / "3", seed=2).directory

    assert weights_digest(first) == weights_digest(second) != weights_digest(other)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_a_half_precise_model_is_written_in_full_precision(
    saved: Saved, tmp_path: Path
) -> None:
    save_model(
        lively_model().bfloat16(),
        tmp_path,
        end_of_text_id=0,
        tokenizer_directory=saved.directory.parent / "tokenizer",
    )

    weights = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    for load in (load_model, load_end_of_text_id):
        with pytest.raises(InputError, match=r"nowhere holds no model.*config\.json"):
            load(tmp_path / "nowhere")


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
    damage(copy / "model.safetensors")

    with pytest.raises(InputError, match=r"cannot read .*model\.safetensors"):
        load_model(copy)


def test_as_many_weights_in_other_shapes_are_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    first = "transformer.w.weight"
    weights[first] = weights[first].T.contiguous()
    save_file(weights, copy / "model.safetensors")

    with pytest.raises(InputError, match=f"1 weights are .*, {re.escape(first)} first"):
        load_model(copy)


@pytest.mark.parametrize("change", [{"num_layers": 1}, {"embed_dim": 16}])
def test_weights_of_another_size_are_refused(
    copy: Path, tmp_path: Path, change: dict[str, int]
) -> None:
    other = save(tmp_path / "other", **change).directory
    (other / "model.safetensors").replace(copy / "model.safetensors")

    with pytest.raises(
        InputError,
        match=r"model\.safetensors does not fit .*config\.json: [\d,]+ numbers",
    ):
        load_model(copy)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(copy: Path, value: float) -> None:
    """Greedy text of them would be rubbish, without a warning."""
    weights = load_file(copy / "model.safetensors")
    weights["transformer.layernorm.bias"][3] = value
    save_file(weights, copy / "model.safetensors")

    with pytest.raises(InputError, match=r"model\.safetensors holds weights that are"):
        load_model(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gpt2"},
        {"dff": 8192},  # the original CTRL has its own width
        {"n_layer": None},
    ],
)
def test_another_architecture_is_refused(copy: Path, change: dict[str, Any]) -> None:
    path = copy / "config.json"
    values = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))

    with pytest.raises(InputError, match=r"config\.json describes no toyGPT model"):
        load_config(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\x00", b"\xff\xfe"])
def test_a_damaged_config_is_refused(copy: Path, content: bytes) -> None:
    (copy / "config.json").write_bytes(content)

    for load in (load_model, load_end_of_text_id):
        with pytest.raises(InputError, match=r"config\.json describes no toyGPT model"):
            load(copy)


@pytest.mark.parametrize(
    "content",
    [
        '{"bos_token_id": 0}',
        '{"eos_token_id": null}',
        '{"eos_token_id": "0"}',
        '{"eos_token_id": 0.5}',
        '{"eos_token_id": true}',
        '{"eos_token_id": [0, 1]}',  # transformers allows it, generate() does not
    ],
)
def test_a_config_without_an_end_of_text_is_refused(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "config.json").write_text(content)

    with pytest.raises(InputError, match=r"config\.json names no eos_token_id"):
        load_end_of_text_id(tmp_path)
