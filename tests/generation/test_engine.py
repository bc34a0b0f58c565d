"""Many texts at once: each is the one that it would be alone."""

from itertools import islice

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.generation.rungs import NEVER, generate, generate_batch
from tests.tiny import BLOCK_SIZE, VOCAB_SIZE, lively_model, random_tokens
from toygpt.generation import engine
from toygpt.generation.sampling import Sampling
from toygpt.model.gpt import GPT, Cache


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list that gets the shape of all tokens that the model reads."""
    shapes: list[tuple[int, int]] = []
    read = GPT.read

    def noted(model: GPT, token_ids: Tensor, cache: Cache | None = None) -> Tensor:
        assert torch.is_inference_mode_enabled(), "gradients would be kept"
        shapes.append((token_ids.shape[0], token_ids.shape[1]))
        return read(model, token_ids, cache)

    monkeypatch.setattr(GPT, "read", noted)
    return shapes


def prompts_of(*lengths: int, seed: int = 0) -> list[list[int]]:
    """Return prompts of these lengths, each another text."""
    return [
        random_tokens(length, seed=100 * seed + number).tolist()
        for number, length in enumerate(lengths)
    ]


MIXED = [9, 40, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 1]
STEADY = {"num_tokens": 24, "end_of_text_id": NEVER, "seed": 5, "is_greedy": True}


@settings(max_examples=4, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 2 * BLOCK_SIZE), min_size=1, max_size=6),
    block_size=st.integers(2, BLOCK_SIZE),
    num_tokens=st.integers(0, 2 * BLOCK_SIZE),
    end_of_text_id=st.integers(NEVER, VOCAB_SIZE - 1),
    seed=st.integers(1, 50),
    is_greedy=st.booleans(),
)
@example(lengths=MIXED, block_size=3, **STEADY)
@example(lengths=MIXED, block_size=BLOCK_SIZE, **STEADY)
@example(lengths=[5, 5, 5], block_size=BLOCK_SIZE, **STEADY)
def test_no_text_depends_on_the_other_texts(
    lengths: list[int],
    block_size: int,
    num_tokens: int,
    end_of_text_id: int,
    seed: int,
    is_greedy: bool,
) -> None:
    """Whether it ends, starts, or moves first; text i is sampled with seed + i."""
    model = lively_model(seed=seed, block_size=block_size)
    prompts = prompts_of(*lengths, seed=seed)

    def sampling(number: int) -> Sampling | None:
        return None if is_greedy else Sampling(temperature=1.5, seed=seed + number)

    texts = generate_batch(
        model, prompts, num_tokens, sampling(0), end_of_text_id=end_of_text_id
    )

    assert texts == [
        generate(
            model, prompt, num_tokens, sampling(number), end_of_text_id=end_of_text_id
        )
        for number, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("sampling", [None, Sampling(seed=1)], ids=str)
def test_no_token_is_read_twice_until_the_block_is_full(
    sampling: Sampling | None, reads: list[tuple[int, int]]
) -> None:
    """This is what a cache is for: each new token costs one token's work."""
    generate(lively_model(), random_tokens(13).tolist(), 22, sampling)

    half, decode_steps = 8, [1] * 8
    num_read = [num_tokens for _, num_tokens in reads]
    assert num_read == [13, 1, 1, 1, half, *decode_steps, half, *decode_steps]


def test_a_text_that_has_ended_costs_no_more_work(reads: list[tuple[int, int]]) -> None:
    model = lively_model()
    prompts = prompts_of(5, 5, 9)
    endless = generate_batch(model, prompts, 30)
    end_of_text_id = endless[1][3]
    ends = [
        text.index(end_of_text_id) if end_of_text_id in text else 30 for text in endless
    ]
    reads.clear()

    texts = generate_batch(model, prompts, 30, end_of_text_id=end_of_text_id)

    assert texts == [text[:end] for text, end in zip(endless, ends, strict=True)]
    assert min(ends) <= 3 < max(ends)
    num_sequences = sum(num for num, _ in reads)
    assert num_sequences == sum(min(end + 1, 30) for end in ends)


def test_an_empty_column_counts_for_nothing() -> None:
    """New memory may hold anything, NaN too, and zero times NaN is NaN."""
    model = lively_model()
    prompts = prompts_of(3, 12)
    expected = generate_batch(model, prompts, 10)
    torch.use_deterministic_algorithms(True)
    try:  # in this mode PyTorch fills new memory with NaN
        assert torch.empty(3).isnan().all()
        texts = generate_batch(model, prompts, 10)
    finally:
        torch.use_deterministic_algorithms(False)

    assert texts == expected


def test_no_prompts_give_no_texts() -> None:
    assert generate_batch(lively_model(), [], 5) == []


@pytest.mark.parametrize("prompts", [[[]], [[1], []], [[], [1]]])
def test_an_empty_prompt_is_refused(prompts: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        generate_batch(lively_model(), prompts, 3)


def test_tokens_come_one_by_one_and_the_caller_can_still_learn() -> None:
    """The mode without gradients must not last while the text is half generated."""
    steps = engine.generate_batch(
        lively_model(), [[1, 2, 3]], max_new_tokens=10**9, end_of_text_id=NEVER
    )

    first = list(islice(steps, 2))

    assert len(first) == 2
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_two_texts_can_be_generated_in_turns() -> None:
    model = lively_model()
    prompts = random_tokens(2, 5).tolist()
    first, second = (
        engine.generate_batch(model, [ids], max_new_tokens=20, end_of_text_id=NEVER)
        for ids in prompts
    )

    in_turns = [(a[0], b[0]) for a, b in zip(first, second, strict=True)]

    alone = (generate(model, prompt, 20) for prompt in prompts)
    assert in_turns == list(zip(*alone, strict=True))
