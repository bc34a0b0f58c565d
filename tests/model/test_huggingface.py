"""The model directory: what we write, we and transformers read alike."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tests.tiny import lively_model, random_tokens
from toygpt.data.tokenizer import END_OF_TEXT, save_tokenizer, train_tokenizer
from toygpt.generation.engine import generate
from toygpt.model.gpt import GPT
from toygpt.model.huggingface import (
    load_config,
    load_end_of_text_id,
    load_model,
    save_model,
    weights_digest,
)
from toygpt.pipeline.errors import InputError

TEXT = "def read_config(path):\n    return path.read_text()\n"

# What a stranger does with the directory. He has transformers, but no toyGPT: even
# where it is installed, to import it fails.
STRANGER = """
import json, sys

sys.modules["toygpt"] = None
try:
    import toygpt
    has_toygpt = True
except ImportError:
    has_toygpt = False

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

directory, question = sys.argv[1], json.loads(sys.argv[2])
model, loading = AutoModelForCausalLM.from_pretrained(
    directory, output_loading_info=True
)
tokenizer = AutoTokenizer.from_pretrained(directory)
tokens = torch.tensor(question["tokens"])
prompt = torch.tensor([question["prompt"]])
with torch.inference_mode():
    logits = model(tokens).logits
continued = model.generate(prompt, max_new_tokens=question["max_new_tokens"])
answer = {
    "has_toygpt": has_toygpt,
    "class": type(model).__name__,
    "loading": {kind: sorted(map(str, keys)) for kind, keys in loading.items() if keys},
    "dtype": str(model.dtype),
    "logits": logits.tolist(),
    "continued": continued[0, prompt.shape[1] :].tolist(),
    "num_parameters": model.num_parameters(),
    "token_ids": tokenizer(question["text"])["input_ids"],
    "text": tokenizer.decode(tokenizer(question["text"])["input_ids"]),
    "end_of_text_id": tokenizer.eos_token_id,
}
print(json.dumps(answer))
"""


class Saved(NamedTuple):
    """A model and the directory it was written to."""

    model: GPT
    directory: Path
    end_of_text_id: int
    tokenizer: Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([[TEXT]], vocab_size=270)


@pytest.fixture(scope="module")
def tokenizer_directory(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer
) -> Path:
    directory = tmp_path_factory.mktemp("made") / "tokenizer"
    save_tokenizer(tokenizer, directory, end_of_text=END_OF_TEXT)
    return directory


@pytest.fixture(scope="module")
def save(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: Tokenizer,
    tokenizer_directory: Path,
) -> Callable[..., Saved]:
    """Return a function that writes a model to a directory of its own."""

    def save_it(*, end_of_text_id: int = 0, **changes: Any) -> Saved:
        directory = tmp_path_factory.mktemp("model")
        model = lively_model(vocab_size=270, **changes)
        save_model(
            model,
            directory,
            end_of_text_id=end_of_text_id,
            tokenizer_directory=tokenizer_directory,
        )
        return Saved(model, directory, end_of_text_id, tokenizer)

    return save_it


PROMPT = random_tokens(4).tolist()


@pytest.fixture(scope="module")
def saved(save: Callable[..., Saved]) -> Saved:
    """Return a model that ends its own text after a few tokens."""
    model = lively_model(vocab_size=270)
    endless = generate(model, PROMPT, max_new_tokens=6, end_of_text_id=-1)
    return save(end_of_text_id=list(endless)[-1])


@pytest.fixture(scope="module")
def stranger(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what transformers makes of the directory where there is no toyGPT."""
    question = {
        "tokens": random_tokens(2, 16).tolist(),
        "prompt": PROMPT,
        "max_new_tokens": 10,
        "text": TEXT,
    }
    answer = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, saved.directory, json.dumps(question)],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    parsed: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    assert not parsed["has_toygpt"]
    return parsed


def test_a_loaded_model_gives_the_very_same_logits(saved: Saved) -> None:
    tokens = random_tokens(2, 16)

    loaded = load_model(saved.directory)

    assert torch.equal(loaded(tokens), saved.model(tokens))
    assert loaded.config == saved.model.config


def test_a_loaded_model_is_ready_to_predict(save: Callable[..., Saved]) -> None:
    saved = save(dropout=0.5)

    loaded = load_model(saved.directory)

    assert loaded.config.dropout == 0.5
    assert not loaded.training


def test_a_loaded_model_is_still_tied(saved: Saved) -> None:
    loaded = load_model(saved.directory)

    assert loaded.to_logits.weight is loaded.token_embedding.weight


def test_more_than_ten_blocks_keep_their_order(save: Callable[..., Saved]) -> None:
    saved = save(num_layers=12)
    tokens = random_tokens(1, 16)

    loaded = load_model(saved.directory)

    assert torch.equal(loaded(tokens), saved.model(tokens))


def test_the_directory_holds_a_checkpoint_and_its_tokenizer(saved: Saved) -> None:
    names = {path.name for path in saved.directory.iterdir()}

    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "vocab.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_tied_matrix_is_written_once(saved: Saved) -> None:
    weights = load_file(saved.directory / "model.safetensors")

    num_numbers = sum(tensor.numel() for tensor in weights.values())

    assert num_numbers == saved.model.num_parameters


def test_others_may_read_the_weights(saved: Saved) -> None:
    mode = (saved.directory / "model.safetensors").stat().st_mode

    assert mode & 0o777 == 0o644


def test_the_same_model_is_written_to_the_same_bytes(
    save: Callable[..., Saved],
) -> None:
    first, second, other = save(), save(), save(seed=2)

    digests = [weights_digest(each.directory) for each in (first, second, other)]

    assert digests[0] == digests[1] != digests[2]
    for path in first.directory.iterdir():
        assert path.read_bytes() == (second.directory / path.name).read_bytes()


def test_a_half_precise_model_is_written_in_full_precision(
    tokenizer_directory: Path, tmp_path: Path
) -> None:
    model = lively_model().bfloat16()

    save_model(
        model, tmp_path, end_of_text_id=0, tokenizer_directory=tokenizer_directory
    )

    weights = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_transformers_finds_every_weight_and_no_other(
    stranger: dict[str, Any],
) -> None:
    assert stranger["class"] == "CTRLLMHeadModel"
    assert stranger["loading"] == {}
    assert stranger["dtype"] == "torch.float32"


def test_transformers_computes_the_same_logits(
    saved: Saved, stranger: dict[str, Any]
) -> None:
    ours = saved.model(random_tokens(2, 16))

    theirs = torch.tensor(stranger["logits"])

    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)


def test_transformers_writes_the_same_text_and_ends_it_where_we_do(
    saved: Saved, stranger: dict[str, Any]
) -> None:
    ours = list(
        generate(
            saved.model,
            PROMPT,
            max_new_tokens=10,
            end_of_text_id=saved.end_of_text_id,
        )
    )

    assert len(ours) > 2
    assert stranger["continued"] == [*ours, saved.end_of_text_id]


def test_transformers_counts_the_same_parameters(
    saved: Saved, stranger: dict[str, Any]
) -> None:
    assert stranger["num_parameters"] == saved.model.num_parameters


def test_transformers_cuts_a_text_into_the_same_tokens(
    saved: Saved, stranger: dict[str, Any]
) -> None:
    assert stranger["token_ids"] == saved.tokenizer.encode(TEXT).ids
    assert stranger["text"] == TEXT
    assert stranger["end_of_text_id"] == 0


def test_transformers_continues_a_batch_as_it_continues_each_text(
    save: Callable[..., Saved],
) -> None:
    """Shorter prompts are padded on the left, and the padding changes nothing."""
    write = text_pipeline(save(block_size=64))
    prompts = ["def", "def read_config(path):", "return path path path"]

    alone = [write(prompt, max_new_tokens=8)[0] for prompt in prompts]
    together = [first for (first,) in write(prompts, batch_size=3, max_new_tokens=8)]

    assert together == alone
    assert all(len(text["generated_text"]) > 0 for text in alone)


def test_transformers_writes_no_further_than_the_block(
    save: Callable[..., Saved],
) -> None:
    """A pipeline's own limit, 256 new tokens, would lead beyond it."""
    write = text_pipeline(save(block_size=64, end_of_text_id=-1))

    text = write("def", return_tensors=True)[0]

    assert len(text["generated_token_ids"]) == 64


def test_transformers_can_cut_a_prompt_that_is_too_long(
    save: Callable[..., Saved],
) -> None:
    write = text_pipeline(save(block_size=64))
    prompt = 20 * TEXT

    text = write(prompt, handle_long_generation="hole", max_new_tokens=8)[0]

    assert text["generated_text"].startswith(prompt)
    assert len(text["generated_text"]) > len(prompt)


def test_a_prompt_is_cut_at_its_beginning(save: Callable[..., Saved]) -> None:
    """As the model card advises: the end is what a continuation follows."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = save(block_size=64).directory
    tokenizer = AutoTokenizer.from_pretrained(directory)
    prompt = 20 * TEXT

    inputs = tokenizer(prompt, truncation=True, max_length=32, return_tensors="pt")
    output = AutoModelForCausalLM.from_pretrained(directory).generate(**inputs)

    assert inputs["input_ids"][0].tolist() == tokenizer(prompt)["input_ids"][-32:]
    assert 32 < len(output[0]) <= 64


def test_transformers_says_that_a_prompt_is_too_long(
    save: Callable[..., Saved],
) -> None:
    write = text_pipeline(save(block_size=64))

    with pytest.raises(ValueError, match="`max_length` is set to 64"):
        write(20 * TEXT)


def text_pipeline(saved: Saved) -> Any:
    """Return what most users of transformers write texts with."""
    from transformers import pipeline

    return pipeline("text-generation", model=str(saved.directory), device="cpu")


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere holds no model.*config\.json"):
        load_model(tmp_path / "nowhere")


def test_missing_weights_are_named(save: Callable[..., Saved]) -> None:
    directory = save().directory
    (directory / "model.safetensors").unlink()

    with pytest.raises(InputError, match=r"cannot read .*model\.safetensors"):
        load_model(directory)


@pytest.mark.parametrize("num_bytes", [0, 7, 100, 10_000])
def test_weights_that_were_cut_off_are_named(
    save: Callable[..., Saved], num_bytes: int
) -> None:
    path = save().directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:num_bytes])

    with pytest.raises(InputError, match=r"cannot read .*model\.safetensors"):
        load_model(path.parent)


def test_weights_that_are_noise_are_named(save: Callable[..., Saved]) -> None:
    path = save().directory / "model.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)

    with pytest.raises(InputError, match=r"cannot read .*model\.safetensors"):
        load_model(path.parent)


def test_as_many_numbers_in_other_shapes_are_refused(
    save: Callable[..., Saved],
) -> None:
    directory = save().directory
    weights = load_file(directory / "model.safetensors")
    first = "transformer.w.weight"
    weights[first] = weights[first].T.contiguous()
    save_file(weights, directory / "model.safetensors")

    with pytest.raises(InputError, match=f"1 weights are .*, {re.escape(first)} first"):
        load_model(directory)


@pytest.mark.parametrize("change", [{"num_layers": 1}, {"embed_dim": 16}])
def test_weights_of_another_shape_are_refused(
    save: Callable[..., Saved], change: dict[str, int]
) -> None:
    directory, other = save().directory, save(**change).directory
    (other / "model.safetensors").replace(directory / "model.safetensors")

    with pytest.raises(
        InputError,
        match=r"model\.safetensors does not fit .*config\.json: [\d,]+ numbers",
    ):
        load_model(directory)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gpt2"},
        {"dff": 8192},  # the original CTRL has its own width
        {"n_layer": None},
    ],
)
def test_another_architecture_is_refused(
    save: Callable[..., Saved], change: dict[str, Any]
) -> None:
    path = save().directory / "config.json"
    values = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))

    with pytest.raises(InputError, match=r"config\.json describes no toyGPT model"):
        load_config(path.parent)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00"])
def test_a_damaged_config_is_refused(save: Callable[..., Saved], text: str) -> None:
    path = save().directory / "config.json"
    path.write_text(text)

    with pytest.raises(InputError, match=r"config\.json describes no toyGPT model"):
        load_model(path.parent)


@pytest.mark.parametrize("token_id", [0, 42, 100_257])
def test_the_end_of_text_comes_back(save: Callable[..., Saved], token_id: int) -> None:
    saved = save(end_of_text_id=token_id)

    assert load_end_of_text_id(saved.directory) == token_id


def test_an_end_of_text_in_a_missing_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere"

    with pytest.raises(InputError) as caught:
        load_end_of_text_id(path)

    assert f"{path / 'config.json'} is missing" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"\xff\xfe",
        b"{}",
        b'{"bos_token_id": 0}',
        b'{"eos_token_id": null}',
        b'{"eos_token_id": "0"}',
        b'{"eos_token_id": 0.5}',
        b'{"eos_token_id": true}',
        b'{"eos_token_id": [0, 1]}',  # transformers allows it, generate() does not
    ],
)
def test_a_config_without_an_end_of_text_is_refused(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)

    with pytest.raises(InputError) as caught:
        load_end_of_text_id(tmp_path)

    assert str(path) in str(caught.value)
    assert re.search("names no eos_token_id|describes no", str(caught.value))


def test_weights_that_are_no_numbers_are_refused(save: Callable[..., Saved]) -> None:
    """Greedy text of them would be rubbish, without a word."""
    saved = save()
    path = saved.directory / "model.safetensors"
    weights = load_file(path)
    weights["transformer.layernorm.bias"][3] = torch.nan
    save_file(weights, path)

    with pytest.raises(InputError, match=r"model\.safetensors holds numbers that are"):
        load_model(saved.directory)
