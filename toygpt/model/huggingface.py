"""The model directory: weights on disk, as a Hugging Face checkpoint.

Our architecture is the one transformers calls CTRL (Keskar et al., 2019,
https://arxiv.org/abs/1909.05858), so that `AutoModelForCausalLM.from_pretrained` loads
our models without toyGPT. Only the names of the weights differ; this file translates
them.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from toygpt.model.gpt import GPT, LAYER_NORM_EPSILON, GPTConfig
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import sha256_of, write_json

WEIGHTS_FILE = "model.safetensors"
# No network has more tokens, blocks, channels or positions.
LARGEST_SIZE = 10_000_000

# Our names of the modules, and CTRL's; N stands for the number of a block.
NAMES = {
    "token_embedding": "transformer.w",
    "blocks.N.attention_norm": "transformer.h.N.layernorm1",
    "blocks.N.attention.to_query": "transformer.h.N.multi_head_attention.Wq",
    "blocks.N.attention.to_key": "transformer.h.N.multi_head_attention.Wk",
    "blocks.N.attention.to_value": "transformer.h.N.multi_head_attention.Wv",
    "blocks.N.attention.to_output": "transformer.h.N.multi_head_attention.dense",
    "blocks.N.feed_forward_norm": "transformer.h.N.layernorm2",
    "blocks.N.feed_forward.to_hidden": "transformer.h.N.ffn.0",
    "blocks.N.feed_forward.to_output": "transformer.h.N.ffn.2",
    "final_norm": "transformer.layernorm",
    "to_logits": "lm_head",
}
# One matrix is both the embedding and the output layer; the file holds it once.
TIED = "to_logits.weight"


def save_model(
    model: GPT, directory: Path, *, end_of_text_id: int, tokenizer_directory: Path
) -> None:
    """Write the model and its tokenizer into an existing, empty directory."""
    config = model.config
    shutil.copytree(tokenizer_directory, directory, dirs_exist_ok=True)
    _fit_tokenizer_to_model(
        directory / "tokenizer_config.json", block_size=config.block_size
    )
    write_json(
        directory / "config.json",
        {
            "architectures": ["CTRLLMHeadModel"],
            "model_type": "ctrl",
            "vocab_size": config.vocab_size,
            "n_layer": config.num_layers,
            "n_head": config.num_heads,
            "n_positions": config.block_size,
            "n_embd": config.embed_dim,
            "dff": 4 * config.embed_dim,
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "layer_norm_epsilon": LAYER_NORM_EPSILON,
            "tie_word_embeddings": True,
            "bos_token_id": end_of_text_id,
            "eos_token_id": end_of_text_id,
            "dtype": "float32",
        },
    )
    write_json(
        directory / "generation_config.json",
        {
            "bos_token_id": end_of_text_id,
            "eos_token_id": end_of_text_id,
            "pad_token_id": end_of_text_id,
            "do_sample": False,
            # Prompt and continuation; a pipeline would try to write 256 tokens.
            "max_length": config.block_size,
        },
    )
    weights = {
        _to_ctrl(name): tensor.detach().float().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name != TIED
    }
    save_file(weights, directory / WEIGHTS_FILE, metadata={"format": "pt"})
    (directory / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it for its owner alone


def _fit_tokenizer_to_model(path: Path, *, block_size: int) -> None:
    """Add the settings to a tokenizer's configuration that transformers needs.

    The longest text, so that pipelines can keep to it, and how texts are padded for a
    batch, or cut: on the left, since a continuation is appended on the right. Padding
    is masked, so that it needs no token of its own.
    """
    values = json.loads(path.read_text(encoding="utf-8"))
    write_json(
        path,
        values
        | {
            "model_max_length": block_size,
            "pad_token": values["eos_token"],
            "padding_side": "left",
            "truncation_side": "left",
        },
    )


def load_model(directory: Path) -> GPT:
    """Read a model that `save_model` wrote, ready to predict.

    Raises:
        InputError: The directory is missing, damaged, or holds another architecture.
    """
    config = load_config(directory)
    try:
        weights = load_file(directory / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot read {directory / WEIGHTS_FILE}: {error}; {_suggestion(directory)}"
        ) from None

    # Before anything of that size is built: the file may be damaged, or made to harm.
    num_found = sum(tensor.numel() for tensor in weights.values())
    if num_found != config.num_parameters:
        raise InputError(
            f"{directory / WEIGHTS_FILE} does not fit {directory / 'config.json'}: "
            f"{num_found:,} numbers instead of {config.num_parameters:,}; "
            f"{_suggestion(directory)}"
        )
    with _AsAllocated():
        model = GPT(config)
    expected = {
        _to_ctrl(name): (tensor.shape, True)
        for name, tensor in model.state_dict().items()
        if name != TIED
    }
    found = {
        name: (tensor.shape, tensor.is_floating_point())
        for name, tensor in weights.items()
    }
    if found != expected:
        wrong = sorted(dict(found.items() ^ expected.items()))
        raise InputError(
            f"{directory / WEIGHTS_FILE} does not fit {directory / 'config.json'}: "
            f"{len(wrong)} weights are missing, unknown or of another shape or type, "
            f"{wrong[0]} first; {_suggestion(directory)}"
        )
    # An infinite weight is the least or the greatest, and NaN counts as both.
    ends = (end for tensor in weights.values() for end in tensor.float().aminmax())
    if not all(end.isfinite() for end in ends):
        raise InputError(
            f"{directory / WEIGHTS_FILE} holds weights that are NaN or infinite; "
            f"{_suggestion(directory)}"
        )
    ours = {
        name: weights[_to_ctrl(name)] for name in model.state_dict() if name != TIED
    }
    model.load_state_dict(ours | {TIED: ours["token_embedding.weight"]})
    return model.eval()


class _AsAllocated(TorchFunctionMode):
    """Make layers without random weights: for a large network they take seconds."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if kwargs and getattr(function, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def _suggestion(directory: Path) -> str:
    return (
        f"`dvc checkout --force {directory}` brings back what the pipeline made; "
        f"`dvc repro --force --single-item train` trains again"
    )


def load_config(directory: Path) -> GPTConfig:
    """Read the shape of the network in a model directory.

    Raises:
        InputError: The directory holds no model of our architecture.
    """
    path = directory / "config.json"
    values = _read_config(directory)
    try:
        if values["model_type"] != "ctrl" or values["dff"] != 4 * values["n_embd"]:
            raise ValueError("another architecture than toyGPT's")
        for key in ("vocab_size", "n_layer", "n_head", "n_positions", "n_embd"):
            if type(values[key]) is not int or not 0 < values[key] <= LARGEST_SIZE:
                raise ValueError(f"{key} is {values[key]!r}")
        if values["n_embd"] % values["n_head"] or values["n_embd"] % 2:
            raise ValueError(f"n_embd is {values['n_embd']}")
        if not 0 <= values["resid_pdrop"] < 1:
            raise ValueError(f"resid_pdrop is {values['resid_pdrop']}")
        return GPTConfig(
            vocab_size=values["vocab_size"],
            num_layers=values["n_layer"],
            num_heads=values["n_head"],
            block_size=values["n_positions"],
            embed_dim=values["n_embd"],
            dropout=values["resid_pdrop"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} describes no toyGPT model: {error!r}") from None


def load_end_of_text_id(directory: Path) -> int:
    """Read the token id by which the model in a directory ends a text.

    Raises:
        InputError: The model's configuration names no such token.
    """
    token_id = _read_config(directory).get("eos_token_id")
    if type(token_id) is not int:
        raise InputError(
            f"{directory / 'config.json'} names no eos_token_id, but {token_id!r}"
        )
    return token_id


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{directory} holds no model: {path} is missing") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} describes no toyGPT model: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} describes no toyGPT model: got {values!r}")
    return values


def weights_digest(directory: Path) -> str:
    """Return the SHA-256 digest of the weights: it identifies a model."""
    return sha256_of(directory / WEIGHTS_FILE)


def _to_ctrl(name: str) -> str:
    """Translate a name: `final_norm.bias` is CTRL's `transformer.layernorm.bias`."""
    module, _, kind = name.rpartition(".")
    number = re.search(r"\d+", module)
    if number is None:
        return f"{NAMES[module]}.{kind}"
    pattern = module.replace(number.group(), "N", 1)
    return f"{NAMES[pattern].replace('N', number.group(), 1)}.{kind}"
