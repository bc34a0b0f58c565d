"""The model directory: what `save_model` writes, `load_model` reads."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.model.saved import Saved, save
from tests.tiny import lively_model, random_tokens
from toygpt.model.huggingface import load_model, save_model, weights_digest


def test_a_loaded_model_gives_the_very_same_logits(tmp_path: Path) -> None:
    """With more than ten blocks, whose names have to keep their order."""
    saved = save(tmp_path, num_layers=12, dropout=0.5)
    tokens = random_tokens(2, 16)

    loaded = load_model(saved.directory)

    assert torch.equal(loaded(tokens), saved.model(tokens))
    assert loaded.config == saved.model.config
    assert not loaded.training
    assert loaded.to_logits.weight is loaded.token_embedding.weight


def test_reading_a_model_makes_no_random_weights_first(saved: Saved) -> None:
    """It would take seconds for a large one."""
    before = torch.get_rng_state()

    load_model(saved.directory)

    assert torch.equal(torch.get_rng_state(), before)


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
