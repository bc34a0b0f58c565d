"""Whether the model recites."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import BLOCK_SIZE, VOCAB_SIZE, lively_model, random_text
from toygpt.data.token_files import TokenIds
from toygpt.evaluation import recital
from toygpt.evaluation.recital import (
    MIN_PASSAGE_TOKENS,
    Passage,
    continued_passages,
    longest_span,
    places_of_tokens,
    recite,
    standard_error,
)
from toygpt.generation.simple import generate

END_OF_TEXT = 0
PIECES = [bytes([32 + number]) for number in range(VOCAB_SIZE)]


def longest_by_trying(text: list[int], train: list[int]) -> int:
    """Return the length of the longest span of a text that is in another one."""
    words = ",".join(map(str, ["", *train, ""]))
    for length in range(len(text), 0, -1):
        for start in range(len(text) - length + 1):
            span = ",".join(map(str, ["", *text[start : start + length], ""]))
            if span in words:
                return length
    return 0


@given(
    st.lists(st.integers(1, 4), max_size=9),
    st.lists(st.integers(1, 4), min_size=1, max_size=60),
)
def test_the_longest_span_is_what_trying_all_finds(
    text: list[int], train: list[int]
) -> None:
    """Never beyond the end of the text or of the training split."""
    searched = np.array([*train, END_OF_TEXT], np.uint16)

    length, start = longest_span(text, searched, places_of_tokens(searched, 5))

    assert length == longest_by_trying(text, train)
    assert longest_by_trying(text[start : start + length], train) == length


def test_a_passage_lies_in_one_document() -> None:
    """Its first half is the prompt; it ends where a document ends."""
    tokens = random_text(600, seed=2) % (VOCAB_SIZE - 1) + 1
    tokens[[3, 40, 300, 302, 599]] = END_OF_TEXT
    text = ",".join(map(str, tokens.tolist()))

    passages = continued_passages(lively_model(), tokens, 20, END_OF_TEXT)

    assert 10 < len(passages) <= 20
    for passage in passages:
        original = passage.prompt + passage.original
        assert MIN_PASSAGE_TOKENS <= len(original) <= BLOCK_SIZE
        assert len(passage.prompt) == len(original) // 2
        assert END_OF_TEXT not in original
        assert ",".join(map(str, original)) in text
    assert passages[0].prompt + passages[0].original == tokens[30:40].tolist()
    assert len(continued_passages(lively_model(), tokens[4:14], 20, END_OF_TEXT)) == 1


def test_the_model_continues_with_its_first_choices() -> None:
    model, tokens = lively_model(), random_text(400, seed=3)

    passages = continued_passages(model, tokens, 20, END_OF_TEXT)

    for passage in passages:
        expected = generate(
            model,
            passage.prompt,
            max_new_tokens=len(passage.original),
            end_of_text_id=END_OF_TEXT,
        )
        assert passage.written == list(expected)


@pytest.mark.parametrize(
    ("written", "reproduced"),
    [([5, 6, 7], 3), ([5, 6, 1, 7], 2), ([1, 6, 7], 0), ([5], 1), ([], 0)],
)
def test_tokens_are_reproduced_up_to_the_first_other_one(
    written: list[int], reproduced: int
) -> None:
    assert Passage([1], [5, 6, 7], written).num_reproduced == reproduced


def repeating(num_tokens: int) -> TokenIds:
    """Return the text that a model with this one habit has learned by heart."""
    return np.full(num_tokens, 7, dtype=np.uint16)


def test_a_model_that_recites_is_found_and_what_it_recites_is_shown() -> None:
    model = lively_model()
    model.to_logits.bias.data[7] = 1000.0
    test = random_text(300, seed=4) % 7 + 1
    test[test == 7] = 8

    found = recite(
        model,
        repeating(200),
        test,
        PIECES,
        num_prompts=10,
        end_of_text_id=END_OF_TEXT,
    )

    half = BLOCK_SIZE // 2
    assert found["searched"] == 1
    assert found["train"]["reproduced"] == found["train"]["longest"] == half
    assert found["train"]["example"] == ["'" * half, "", "'" * half, ""]
    assert found["train"]["error"] == 0
    assert standard_error([1]) is None
    assert standard_error([1, 3]) == pytest.approx(1)
    assert found["test"]["reproduced"] == 0
    assert found["test"]["longest"] == half
    assert found["human"]["longest"] == 0
    assert [len(part) for part in found["human"]["example"]] == [half, 0, 0, half]


def test_a_large_training_split_is_searched_in_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recital, "MAX_SEARCHED_TOKENS", 50)
    train = np.append(random_text(50), repeating(150)).astype(np.uint16)

    found = recite(
        lively_model(),
        train,
        repeating(100),
        PIECES,
        num_prompts=3,
        end_of_text_id=END_OF_TEXT,
    )

    assert found["searched"] == 0.25
    assert found["human"]["longest"] <= 1


def test_texts_too_short_to_continue_give_no_prompts() -> None:
    tokens = np.array([1, 2, 3, END_OF_TEXT] * 20, dtype=np.uint16)

    found = recite(
        lively_model(),
        tokens,
        tokens,
        PIECES,
        num_prompts=5,
        end_of_text_id=END_OF_TEXT,
    )

    assert found == {"searched": 1}
