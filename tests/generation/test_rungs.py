"""The generation ladder: every rung gives the tokens of the rung below."""

import pytest
import torch

from tests.generation.rungs import RUNGS, generate
from tests.tiny import BLOCK_SIZE, lively_model, random_tokens
from toygpt.generation import packed
from toygpt.generation.sampling import Sampling
from toygpt.model.gpt import GPT

every_rung = pytest.mark.parametrize("rung", RUNGS)
greedy_and_sampling = pytest.mark.parametrize(
    "sampling", [None, Sampling(temperature=2.0, seed=1)], ids=["greedy", "sampling"]
)


@pytest.fixture(autouse=True)
def _pack_small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MIN_WEIGHTS", 0)


def most_likely(model: GPT, token_ids: list[int]) -> int:
    return int(model(torch.tensor([token_ids]))[0, -1].argmax())


@every_rung
@pytest.mark.parametrize("num_prompt_ids", [1, 5, BLOCK_SIZE])
def test_each_new_token_is_the_most_likely_one(rung: str, num_prompt_ids: int) -> None:
    """Until the block is full, a loop of three lines does the same."""
    model = lively_model(seed=2)
    token_ids = random_tokens(num_prompt_ids).tolist()
    num_tokens = BLOCK_SIZE - num_prompt_ids + 1

    new_ids = generate(model, token_ids, num_tokens, rung=rung)

    for new_id in new_ids:
        assert new_id == most_likely(model, token_ids)
        token_ids = [*token_ids, new_id]
    assert len(new_ids) == num_tokens


@pytest.mark.parametrize("rung", list(RUNGS)[1:])
@pytest.mark.parametrize("block_size", [2, 3, BLOCK_SIZE])
@pytest.mark.parametrize("num_prompt_ids", [1, 2, BLOCK_SIZE, 40])
@greedy_and_sampling
def test_a_rung_gives_the_tokens_of_the_first(
    rung: str, block_size: int, num_prompt_ids: int, sampling: Sampling | None
) -> None:
    """Far beyond the block size, too, where the window moves."""
    model = lively_model(seed=5, block_size=block_size)
    prompt = random_tokens(num_prompt_ids).tolist()
    before = list(prompt)

    new_ids = generate(model, prompt, 2 * BLOCK_SIZE, sampling, rung=rung)

    expected = generate(model, prompt, 2 * BLOCK_SIZE, sampling, rung="simple")
    assert new_ids == expected
    assert prompt == before, "the caller's prompt has changed"
    assert len(set(new_ids)) > 3, "the text is too dull to show a mistake"


@every_rung
def test_after_a_full_block_the_model_sees_its_newer_half(rung: str) -> None:
    model = lively_model(seed=5)
    token_ids = random_tokens(40).tolist()

    first, second, *_ = generate(model, token_ids, 3, rung=rung)

    window = token_ids[-BLOCK_SIZE:]
    assert first == most_likely(model, window)
    assert second == most_likely(model, [*window, first][-BLOCK_SIZE // 2 :])


@every_rung
@greedy_and_sampling
def test_the_text_ends_where_the_model_ends_it(
    rung: str, sampling: Sampling | None
) -> None:
    model = lively_model()
    prompt = random_tokens(5).tolist()
    endless = generate(model, prompt, 8, sampling, rung=rung)
    end_of_text_id = endless[5]

    new_ids = generate(
        model, prompt, 8, sampling, end_of_text_id=end_of_text_id, rung=rung
    )

    assert new_ids == endless[: endless.index(end_of_text_id)]
    assert new_ids


@every_rung
@pytest.mark.parametrize("max_new_tokens", [0, 1, 40])
def test_the_text_is_no_longer_than_asked_for(rung: str, max_new_tokens: int) -> None:
    new_ids = generate(
        lively_model(), random_tokens(5).tolist(), max_new_tokens, rung=rung
    )

    assert len(new_ids) == max_new_tokens


@every_rung
def test_the_random_choices_depend_on_the_seed_alone(rung: str) -> None:
    """Not on the program's own random numbers, which stay as they were."""
    model = lively_model()
    texts: list[list[int]] = []
    for seed in (1, 1, 2):
        state = torch.manual_seed(len(texts)).get_state()
        sampling = Sampling(temperature=2.0, seed=seed)
        texts.append(generate(model, [3], 20, sampling, rung=rung))
        assert torch.equal(torch.get_rng_state(), state)

    assert texts[0] == texts[1] != texts[2]
