"""The page holds what the network computed, and nothing that it must not."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.explaining.samples import HOSTILE, VOCAB_SIZE, loaded_model
from tests.pages.test_html import findings_in
from tests.project import PROJECT
from toygpt.explaining import page as page_module
from toygpt.explaining.length import room_on_page
from toygpt.explaining.page import CODE, excerpt, explain
from toygpt.explaining.trace import trace
from toygpt.generation.sampling import Sampling, next_token_probabilities
from toygpt.model.loading import LoadedModel
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params_file import load_params

LARGEST = 1_000_000  # bytes of a page


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return loaded_model()


def page_on(loaded: LoadedModel, prompt: str, max_new_tokens: int = 3) -> str:
    return explain(loaded, prompt, max_new_tokens=max_new_tokens, digest="0" * 64)


@torch.inference_mode()
def test_the_numbers_of_the_page_are_those_of_the_network(loaded: LoadedModel) -> None:
    found = findings_in(page_on(loaded, "The road was"))

    traced = trace(loaded.model, found["tokens"])
    probabilities = traced.logits.softmax(dim=-1)
    time = len(found["tokens"])
    for head, rows in zip(
        traced.shares.flatten(end_dim=1), found["shares"], strict=True
    ):
        for place, row in enumerate(rows):
            assert np.allclose(
                np.array(row) / 1000, head[place, : place + 1], atol=6e-4
            )
    last = found["guesses"][-1]
    assert np.allclose(last["values"], probabilities.topk(3).values, atol=1e-4)
    assert last["ids"] == probabilities.topk(3).indices.tolist()
    assert last["ranks"] == [1] * time
    came = probabilities[range(time - 1), found["tokens"][1:]]
    assert np.allclose(found["bits"], -came.log2(), atol=1e-3)
    assert found["fired"] == (traced.hidden > 0).sum(dim=-1).tolist()
    assert np.allclose(found["additions"], traced.additions[..., :3], atol=1e-4)


@torch.inference_mode()
def test_before_the_last_part_the_token_itself_is_left_out(loaded: LoadedModel) -> None:
    found = findings_in(page_on(loaded, "The road was"))

    for part in found["guesses"][:-1]:
        for token_id, ids in zip(found["tokens"], part["ids"], strict=True):
            assert token_id not in ids
    assert all(0 <= itself <= 1 for itself in found["guesses"][0]["itself"])


def test_a_token_of_which_the_model_is_certain_is_left_out_too() -> None:
    """The probabilities of all other tokens are zero, in 32 bits."""
    certain = loaded_model()
    (token_id,) = certain.tokenizer.encode("z", add_special_tokens=False).ids
    certain.model.to_logits.bias.data[token_id] = 1000.0

    found = findings_in(page_on(certain, "z"))

    assert found["guesses"][0]["itself"][0] == 1
    assert token_id not in found["guesses"][0]["ids"][0]
    assert 0 < sum(found["guesses"][0]["values"][0]) <= 1


@torch.inference_mode()
def test_the_tokens_without_a_bar_of_their_own_have_their_share(
    loaded: LoadedModel,
) -> None:
    """So that temperature and top-p work on the whole vocabulary."""
    found = findings_in(page_on(loaded, "The road was"))
    logits = trace(loaded.model, found["tokens"]).logits

    for temperature in (0.5, 1.0, 2.0):
        expected = next_token_probabilities(logits, Sampling(temperature=temperature))
        for place, others in enumerate(found["others"]):
            named = np.array(found["candidates"]["values"][place])
            centres, counts = np.array(others).T
            assert counts.sum() + len(named) == VOCAB_SIZE
            powers = np.exp(named / temperature)
            rest = (np.exp(centres / temperature) * counts).sum()
            shares = powers / (powers.sum() + rest)
            best = expected[place].topk(len(named)).values.numpy()
            assert np.allclose(shares, best, rtol=0.02)


@settings(max_examples=15)
@given(st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1, max_size=4)))
def test_any_prompt_comes_back_out_as_it_was_read(prompt: str) -> None:
    prompt = prompt.encode(errors="ignore").decode() or "a"
    loaded = loaded_model(block_size=64, num_layers=1)

    html = page_on(loaded, prompt)

    found = findings_in(html)
    read = loaded.tokenizer.encode(prompt, add_special_tokens=False).ids
    assert found["tokens"][: found["given"]] == read
    assert html.count("<script") == html.count("</script>") == 2
    assert all(label.isprintable() for label in found["labels"].values())
    assert sum(size for size, _ in found["groups"]) == len(found["tokens"])


def test_a_page_names_no_place_of_this_machine(loaded: LoadedModel) -> None:
    html = page_on(loaded, "Once upon")

    assert str(PROJECT) not in html
    assert str(Path.home()) not in html
    assert "://" not in re.sub(r"https?://(arxiv\.org|www\.w3\.org)/", "", html)


def test_a_prompt_that_is_too_long_is_refused_or_cut(loaded: LoadedModel) -> None:
    prompt = "zyx" * 10
    with pytest.raises(InputError, match="has 30 tokens") as refused:
        page_on(loaded, prompt)
    assert "room for 16" in str(refused.value)

    cut = explain(loaded, prompt, max_new_tokens=3, digest="0", may_cut=True)

    found = findings_in(cut)
    assert (found["given"], found["left_out"]) == (13, 17)
    assert len(found["tokens"]) == 16


@pytest.mark.parametrize("prompt", ["z", "z" * 16])
def test_one_token_is_enough_and_a_prompt_may_fill_the_page(
    loaded: LoadedModel, prompt: str
) -> None:
    found = findings_in(page_on(loaded, prompt))

    assert found["given"] == len(prompt)
    assert len(found["tokens"]) == min(16, len(prompt) + 3)


def test_heads_are_removed_one_by_one_only_where_that_is_quick(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "without" in findings_in(page_on(loaded, "The"))

    monkeypatch.setattr(page_module, "MOST_WORK", 1000)

    assert "without" not in findings_in(page_on(loaded, "The"))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["nano", "small"])
def test_a_full_page_is_below_a_megabyte(size: str) -> None:
    """With all blocks and heads; the page does not depend on the length of vectors."""
    model = load_params(PROJECT / "params.yaml").models[size]
    shape = model.model_dump() | {"embed_dim": model.embed_dim // 4}
    loaded = loaded_model(**shape)
    room = room_on_page(model.block_size, model.num_layers * model.num_heads)

    html = page_on(loaded, "z" * room)

    assert len(findings_in(html)["tokens"]) == room
    assert len(html.encode()) < LARGEST


@pytest.mark.parametrize("step", CODE)
def test_the_code_of_a_step_is_found_where_the_page_says(step: str) -> None:
    shown = excerpt(*CODE[step])

    lines = (PROJECT / shown["file"]).read_text(encoding="utf-8").splitlines()
    line = shown["lines"][shown["marked"]]
    assert lines[shown["first"] + shown["marked"] - 1].strip() == line.strip()
    assert shown["lines"][0].startswith("def ")


def test_every_excerpt_has_its_place_on_the_page() -> None:
    template = page_module.CONTENT.read_text(encoding="utf-8")

    assert sorted(re.findall('data-code="(.+?)"', template)) == sorted(CODE)
