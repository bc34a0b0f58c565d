"""transformers reads our model directory by its own code, and computes the same."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.generation.rungs import generate
from tests.model.saved import TEXT, VOCAB_SIZE, Saved, save
from tests.tiny import lively_model, random_tokens

pytestmark = pytest.mark.slow  # to import transformers takes seconds

PROMPT = random_tokens(4).tolist()


def test_transformers_loads_the_model_by_its_own_code_and_computes_the_same(
    tmp_path: Path,
) -> None:
    """The same logits, tokens and text, ended where we end it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    endless = generate(lively_model(vocab_size=VOCAB_SIZE), PROMPT, 6)
    saved = save(tmp_path, end_of_text_id=endless[-1])
    tokens = random_tokens(2, 16)

    model, loading = AutoModelForCausalLM.from_pretrained(
        saved.directory, output_loading_info=True
    )
    tokenizer = AutoTokenizer.from_pretrained(saved.directory)

    assert type(model).__module__ == "transformers.models.ctrl.modeling_ctrl"
    assert not any(loading.values()), "a weight is missing, or unknown"
    assert model.dtype == torch.float32
    assert model.num_parameters() == saved.model.num_parameters
    logits = model(tokens).logits
    torch.testing.assert_close(logits, saved.model(tokens), rtol=0, atol=1e-4)
    ours = generate(saved.model, PROMPT, 10, end_of_text_id=saved.end_of_text_id)
    theirs = model.generate(torch.tensor([PROMPT]), max_new_tokens=10)
    assert len(ours) > 2
    assert theirs[0].tolist() == [*PROMPT, *ours, saved.end_of_text_id]
    token_ids = tokenizer(TEXT)["input_ids"]
    assert token_ids == saved.tokenizer.encode(TEXT).ids
    assert tokenizer.decode(token_ids) == TEXT
    # As the model card advises, a prompt is cut at its beginning.
    cut = tokenizer(TEXT, truncation=True, max_length=8)["input_ids"]
    assert cut == token_ids[-8:]
    assert tokenizer.eos_token_id == 0


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save(tmp_path_factory.mktemp("larger"), block_size=64, end_of_text_id=-1)


@pytest.fixture(scope="module")
def write(larger: Saved) -> Any:
    """Return a pipeline: what most users of transformers generate text with."""
    from transformers import pipeline

    return pipeline("text-generation", model=str(larger.directory), device="cpu")


def test_a_pipeline_continues_a_batch_as_it_continues_each_text(write: Any) -> None:
    """Shorter prompts are padded on the left, and the padding changes nothing."""
    prompts = ["def", "def read_config(path):", "return path path path"]

    alone = [write(prompt, max_new_tokens=8)[0] for prompt in prompts]
    batch = [first for (first,) in write(prompts, batch_size=3, max_new_tokens=8)]

    assert batch == alone
    assert all(len(text["generated_text"]) > 0 for text in alone)


def test_a_pipeline_keeps_to_the_block(write: Any) -> None:
    """Its own limit, 256 new tokens, would lead beyond it; it can cut a prompt."""
    text = write("def", return_tensors=True)[0]
    more = write(20 * TEXT, handle_long_generation="hole", max_new_tokens=8)[0]

    assert len(text["generated_token_ids"]) == 64
    assert more["generated_text"].startswith(20 * TEXT)
    assert len(more["generated_text"]) > len(20 * TEXT)
    with pytest.raises(ValueError, match="`max_length` is set to 64"):
        write(20 * TEXT)
