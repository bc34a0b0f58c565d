"""Writing text, token after token."""

from itertools import islice

import pytest
import torch

from tests.tiny import BLOCK_SIZE, lively_model, random_tokens
from toygpt.model.generation import generate

NEVER = -1  # no token has this id, so that no text ends


def test_each_new_token_is_the_most_likely_one() -> None:
    model = lively_model()
    prompt = random_tokens(5).tolist()

    new_ids = list(generate(model, prompt, max_new_tokens=8, end_of_text_id=NEVER))

    # One look at the finished text tells, at each place, what should have come next.
    choices = model(torch.tensor([prompt + new_ids]))[0].argmax(dim=-1).tolist()
    assert new_ids == choices[len(prompt) - 1 : -1]
    assert len(set(new_ids)) > 3, "the text is too dull to show a mistake"


def test_the_text_ends_where_the_model_ends_it() -> None:
    model = lively_model()
    prompt = random_tokens(5).tolist()
    endless = list(generate(model, prompt, max_new_tokens=8, end_of_text_id=NEVER))
    end_of_text_id = endless[5]

    new_ids = list(
        generate(model, prompt, max_new_tokens=8, end_of_text_id=end_of_text_id)
    )

    assert new_ids == endless[: endless.index(end_of_text_id)]
    assert new_ids


@pytest.mark.parametrize("max_new_tokens", [0, 1, 7])
def test_the_text_is_no_longer_than_asked_for(max_new_tokens: int) -> None:
    new_ids = list(
        generate(
            lively_model(),
            random_tokens(5).tolist(),
            max_new_tokens=max_new_tokens,
            end_of_text_id=NEVER,
        )
    )

    assert len(new_ids) == max_new_tokens


def test_of_a_long_text_the_model_sees_its_end() -> None:
    model = lively_model()
    prompt = random_tokens(3 * BLOCK_SIZE).tolist()
    end = prompt[-BLOCK_SIZE:]

    of_all, of_its_end = (
        list(generate(model, beginning, max_new_tokens=6, end_of_text_id=NEVER))
        for beginning in (prompt, end)
    )

    assert of_all == of_its_end
    text = end + of_its_end
    for place, new_id in enumerate(of_its_end):
        window = torch.tensor([text[place : place + BLOCK_SIZE]])
        assert model(window)[0, -1].argmax() == new_id


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        next(generate(lively_model(), [], max_new_tokens=3, end_of_text_id=NEVER))


def test_the_caller_s_prompt_stays_as_it_was() -> None:
    prompt = random_tokens(5).tolist()
    copy = list(prompt)

    list(generate(lively_model(), prompt, max_new_tokens=3, end_of_text_id=NEVER))

    assert prompt == copy


def test_tokens_come_one_by_one_and_the_caller_can_still_learn() -> None:
    """The mode without gradients must not leak out while the text is half written."""
    tokens = generate(
        lively_model(), [1, 2, 3], max_new_tokens=10**9, end_of_text_id=NEVER
    )

    first = list(islice(tokens, 2))

    assert len(first) == 2
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
