"""Writing text, token after token."""

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tests.tiny import BLOCK_SIZE, VOCAB_SIZE, lively_model, random_tokens, tiny_model
from toygpt.generation.engine import (
    Sampling,
    generate,
    generate_together,
    next_token_probabilities,
)
from toygpt.generation.kv_cache import KeyValueCache
from toygpt.generation.packed import InferenceGPT
from toygpt.model.gpt import GPT
from toygpt.model.huggingface import save_model

NEVER = -1  # no token has this id, so that no text ends

either_way = pytest.mark.parametrize(
    "sampling",
    [None, Sampling(temperature=2.0, seed=1)],
    ids=["likeliest", "by_chance"],
)


def write(
    model: GPT,
    prompt: list[int],
    num_tokens: int,
    sampling: Sampling | None = None,
    *,
    end_of_text_id: int = NEVER,
) -> list[int]:
    """Return a continuation as a list."""
    return list(
        generate(
            InferenceGPT(model),
            prompt,
            max_new_tokens=num_tokens,
            end_of_text_id=end_of_text_id,
            sampling=sampling,
        )
    )


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list that tells of each reading how many texts and tokens it had."""
    shapes: list[tuple[int, int]] = []
    read_on = InferenceGPT.read_on

    def noted(model: InferenceGPT, token_ids: Tensor, cache: KeyValueCache) -> Tensor:
        assert torch.is_inference_mode_enabled(), "gradients would be kept"
        shapes.append((token_ids.shape[0], token_ids.shape[1]))
        return read_on(model, token_ids, cache)

    monkeypatch.setattr(InferenceGPT, "read_on", noted)
    return shapes


def likeliest_next(model: GPT, text: list[int]) -> int:
    """Return what the model, reading all of the text anew, would go on with."""
    return int(model(torch.tensor([text]))[0, -1].argmax())


def windows(
    text: list[int], num_prompt_ids: int, block_size: int
) -> Iterator[list[int]]:
    """Yield what the model may see of the text as it chooses each new token.

    At first the end of the prompt, then one token more each time; after a full block,
    half a block.
    """
    num_seen = min(num_prompt_ids, block_size)
    for end in range(num_prompt_ids, len(text)):
        yield text[end - num_seen : end]
        num_seen = num_seen + 1 if num_seen < block_size else block_size // 2


def model_of_fixed_opinion(probabilities: list[float]) -> GPT:
    """Return a model that finds the next token so likely, whatever came before."""
    model = tiny_model(vocab_size=len(probabilities), num_layers=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.to_logits.bias.copy_(torch.tensor(probabilities).log())
    return model.eval()


@pytest.mark.parametrize("num_prompt_ids", [1, 5, BLOCK_SIZE])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_new_token_is_the_most_likely_one(seed: int, num_prompt_ids: int) -> None:
    """Token for token as in a loop that remembers nothing, until the block is full."""
    model = lively_model(seed=seed)
    prompt = random_tokens(num_prompt_ids, seed=seed).tolist()

    new_ids = write(model, prompt, BLOCK_SIZE - num_prompt_ids + 1)

    text = list(prompt)
    while len(text) <= BLOCK_SIZE:
        text.append(likeliest_next(model, text))
    assert prompt + new_ids == text


@pytest.mark.parametrize("block_size", [2, 3, 5, BLOCK_SIZE])
@pytest.mark.parametrize("num_prompt_ids", [1, 2, BLOCK_SIZE, 40])
def test_after_a_full_block_the_model_sees_its_newer_half(
    block_size: int, num_prompt_ids: int
) -> None:
    model = lively_model(seed=5, block_size=block_size)
    prompt = random_tokens(num_prompt_ids).tolist()

    new_ids = write(model, prompt, 2 * BLOCK_SIZE)

    seen = list(windows(prompt + new_ids, num_prompt_ids, block_size))
    assert new_ids == [likeliest_next(model, window) for window in seen]
    assert {len(window) for window in seen} >= {block_size // 2, block_size}
    assert len(set(new_ids)) > 3, "the text is too dull to show a mistake"


def test_of_a_long_prompt_the_model_sees_the_last_block() -> None:
    model = lively_model()
    prompt = random_tokens(3 * BLOCK_SIZE).tolist()

    of_all, of_its_end = (
        write(model, beginning, 2 * BLOCK_SIZE)
        for beginning in (prompt, prompt[-BLOCK_SIZE:])
    )

    assert of_all == of_its_end
    assert of_all[0] != likeliest_next(model, prompt[-BLOCK_SIZE // 2 :])


@either_way
def test_no_token_is_read_twice_until_the_block_is_full(
    sampling: Sampling | None, readings: list[tuple[int, int]]
) -> None:
    """This is what a cache is for: each new token costs one token's work."""
    write(lively_model(), random_tokens(13).tolist(), 22, sampling)

    half, one_by_one = 8, [1] * 8
    num_read = [num_tokens for _, num_tokens in readings]
    assert num_read == [13, 1, 1, 1, half, *one_by_one, half, *one_by_one]


@either_way
def test_the_text_ends_where_the_model_ends_it(sampling: Sampling | None) -> None:
    model = lively_model()
    prompt = random_tokens(5).tolist()
    endless = write(model, prompt, 8, sampling)
    end_of_text_id = endless[5]

    new_ids = write(model, prompt, 8, sampling, end_of_text_id=end_of_text_id)

    assert new_ids == endless[: endless.index(end_of_text_id)]
    assert new_ids


@either_way
@pytest.mark.parametrize("max_new_tokens", [0, 1, 7, 40])
def test_the_text_is_no_longer_than_asked_for(
    sampling: Sampling | None, max_new_tokens: int
) -> None:
    new_ids = write(lively_model(), random_tokens(5).tolist(), max_new_tokens, sampling)

    assert len(new_ids) == max_new_tokens


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        write(lively_model(), [], 3)


@pytest.mark.parametrize("num_prompt_ids", [5, BLOCK_SIZE])
def test_the_caller_s_prompt_stays_as_it_was(num_prompt_ids: int) -> None:
    prompt = random_tokens(num_prompt_ids).tolist()
    copy = list(prompt)

    write(lively_model(), prompt, 3)

    assert prompt == copy


def test_tokens_come_one_by_one_and_the_caller_can_still_learn() -> None:
    """The mode without gradients must not leak out while the text is half written."""
    tokens = generate(
        InferenceGPT(lively_model()),
        [1, 2, 3],
        max_new_tokens=10**9,
        end_of_text_id=NEVER,
    )

    first = list(islice(tokens, 2))

    assert len(first) == 2
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


@either_way
def test_two_texts_can_be_written_in_turns(sampling: Sampling | None) -> None:
    model = lively_model()
    prompts = random_tokens(2, 5).tolist()

    in_turns = zip(
        *(
            generate(
                InferenceGPT(model),
                prompt,
                max_new_tokens=20,
                end_of_text_id=NEVER,
                sampling=sampling,
            )
            for prompt in prompts
        ),
        strict=True,
    )

    together = [list(new_ids) for new_ids in zip(*in_turns, strict=True)]
    assert together == [write(model, prompt, 20, sampling) for prompt in prompts]


def write_together(
    model: GPT,
    prompts: list[list[int]],
    num_tokens: int,
    sampling: Sampling | None = None,
    *,
    end_of_text_id: int = NEVER,
) -> list[list[int]]:
    """Return the continuations of all prompts as lists."""
    texts: list[list[int]] = [[] for _ in prompts]
    for new_ids in generate_together(
        InferenceGPT(model),
        prompts,
        max_new_tokens=num_tokens,
        end_of_text_id=end_of_text_id,
        sampling=sampling,
    ):
        for number, token_id in new_ids.items():
            texts[number].append(token_id)
    return texts


def prompts_of(*lengths: int, seed: int = 0) -> list[list[int]]:
    """Return prompts of such lengths, each another text."""
    return [
        random_tokens(length, seed=100 * seed + number).tolist()
        for number, length in enumerate(lengths)
    ]


LENGTHS = pytest.mark.parametrize(
    "lengths",
    [
        (5,),
        (5, 5, 5),
        (1, 2, 3, 4, 5),
        (BLOCK_SIZE, 1),
        (9, 8, 40, 7, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1),
        tuple(range(1, BLOCK_SIZE + 1)),
    ],
    ids=str,
)


@LENGTHS
@pytest.mark.parametrize("block_size", [2, 3, BLOCK_SIZE])
def test_together_the_texts_are_the_same_as_one_by_one(
    lengths: tuple[int, ...], block_size: int
) -> None:
    """Far beyond the block size, where each text moves on at its own time."""
    model = lively_model(seed=5, block_size=block_size)
    prompts = prompts_of(*lengths)

    together = write_together(model, prompts, 3 * BLOCK_SIZE)

    assert together == [write(model, prompt, 3 * BLOCK_SIZE) for prompt in prompts]
    assert len(set(together[0])) > 3, "the text is too dull to show a mistake"


@settings(max_examples=30, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 2 * BLOCK_SIZE), min_size=1, max_size=6),
    num_tokens=st.integers(0, 2 * BLOCK_SIZE),
    end_of_text_id=st.integers(NEVER, VOCAB_SIZE - 1),
    seed=st.integers(1, 50),
    by_chance=st.booleans(),
)
def test_no_text_depends_on_its_company(
    lengths: list[int],
    num_tokens: int,
    end_of_text_id: int,
    seed: int,
    by_chance: bool,
) -> None:
    """Whichever ends, begins, or moves on first; text i draws with seed + i."""
    model = lively_model(seed=seed)
    prompts = prompts_of(*lengths, seed=seed)

    def sampling(number: int) -> Sampling | None:
        return Sampling(temperature=1.5, seed=seed + number) if by_chance else None

    together = write_together(
        model, prompts, num_tokens, sampling(0), end_of_text_id=end_of_text_id
    )

    assert together == [
        write(
            model, prompt, num_tokens, sampling(number), end_of_text_id=end_of_text_id
        )
        for number, prompt in enumerate(prompts)
    ]


@LENGTHS
def test_together_the_texts_are_those_of_transformers(
    lengths: tuple[int, ...], tmp_path: Path
) -> None:
    """As long as a block: there, `generate` of transformers has to stop."""
    model = lively_model(seed=5, block_size=64)
    tokenizer, folder = tmp_path / "tokenizer", tmp_path / "model"
    tokenizer.mkdir()
    (tokenizer / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    save_model(model, folder, end_of_text_id=0, tokenizer_directory=tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    prompts = prompts_of(*(min(length, BLOCK_SIZE) for length in lengths))

    together = write_together(model, prompts, 48, end_of_text_id=0)

    for prompt, new_ids in zip(prompts, together, strict=True):
        ids = torch.tensor([prompt])
        output = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=48
        )
        expected = output[0, len(prompt) :].tolist()
        end = expected.index(0) if 0 in expected else len(expected)
        assert new_ids == expected[:end]


def test_a_text_that_ends_costs_no_more_work(readings: list[tuple[int, int]]) -> None:
    """The others go on without it."""
    model = lively_model()
    prompts = prompts_of(5, 5, 9)
    endless = write_together(model, prompts, 30)
    end_of_text_id = endless[1][3]
    ends = [
        text.index(end_of_text_id) if end_of_text_id in text else 30 for text in endless
    ]
    readings.clear()

    texts = write_together(model, prompts, 30, end_of_text_id=end_of_text_id)

    assert texts == [text[:end] for text, end in zip(endless, ends, strict=True)]
    assert min(ends) <= 3 < max(ends)
    # One reading more for each text that moves on to the newer half of its block.
    num_texts = sum(num for num, _ in readings)
    assert num_texts == sum(min(end + 1, 30) for end in ends)


def test_what_no_token_has_filled_counts_for_nothing() -> None:
    """Memory may hold anything before it is written to, numbers that are none, too."""
    model = lively_model()
    prompts = prompts_of(3, 12)
    expected = write_together(model, prompts, 10)
    torch.use_deterministic_algorithms(True)
    try:  # in this mode PyTorch fills new memory with NaN
        assert torch.empty(3).isnan().all()
        texts = write_together(model, prompts, 10)
    finally:
        torch.use_deterministic_algorithms(False)

    assert texts == expected


def test_of_nothing_to_continue_nothing_comes() -> None:
    assert write_together(lively_model(), [], 5) == []


@pytest.mark.parametrize("prompts", [[[]], [[1], []], [[], [1]]])
def test_one_empty_prompt_among_others_is_refused(prompts: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        write_together(lively_model(), prompts, 3)


def test_the_same_prompt_many_times_gives_many_texts_by_chance() -> None:
    model = lively_model()

    texts = write_together(model, [[3, 4]] * 8, 10, Sampling(temperature=2.0))

    assert len({tuple(text) for text in texts}) == 8


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [None, 1, 7, VOCAB_SIZE, 1000])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.5, 0.95, 1.0])
def test_probabilities_are_those_of_transformers(
    temperature: float, top_k: int | None, top_p: float | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5, VOCAB_SIZE, generator=generator).double()
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)

    probabilities = next_token_probabilities(logits, sampling)

    steps: list[Any] = [TemperatureLogitsWarper(temperature)]
    if top_k is not None:
        steps.append(TopKLogitsWarper(top_k))
    if top_p is not None:
        steps.append(TopPLogitsWarper(top_p))
    scores = logits
    for step in steps:
        scores = step(None, scores)
    torch.testing.assert_close(probabilities, scores.softmax(dim=-1))


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=1e-300), Sampling(top_p=1e-46)]
)
def test_the_most_extreme_settings_still_leave_the_likeliest_token(
    sampling: Sampling,
) -> None:
    logits = torch.tensor([[1.0, 3.0, -2.0]])

    probabilities = next_token_probabilities(logits, sampling)

    assert probabilities.tolist() == [[0, 1, 0]]


def test_a_top_p_of_one_keeps_every_token() -> None:
    logits = torch.tensor([[20.0, 0.0, -20.0]])

    assert next_token_probabilities(logits, Sampling(top_p=1.0)).all()


@pytest.mark.parametrize(
    ("top_p", "num_kept"), [(0.01, 1), (0.25, 1), (0.26, 2), (0.5, 2), (1.0, 4)]
)
def test_tokens_are_kept_until_they_reach_top_p(top_p: float, num_kept: int) -> None:
    four_alike = torch.zeros(1, 4)

    probabilities = next_token_probabilities(four_alike, Sampling(top_p=top_p))

    kept = probabilities[probabilities > 0]
    assert kept.tolist() == pytest.approx([1 / num_kept] * num_kept)


def test_the_caller_s_logits_stay_as_they_were() -> None:
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    copy = logits.clone()

    next_token_probabilities(logits, Sampling(temperature=2.0, top_k=3, top_p=0.5))

    assert torch.equal(logits, copy)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(top_k=1), Sampling(top_p=1e-6), Sampling(temperature=1e-4)],
    ids=["top_k", "top_p", "temperature"],
)
def test_where_one_token_is_left_to_choose_from_it_is_the_likeliest(
    sampling: Sampling,
) -> None:
    model = lively_model()
    prompt = random_tokens(5).tolist()

    assert write(model, prompt, 30, sampling) == write(model, prompt, 30)


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    model = lively_model()
    prompt = random_tokens(5).tolist()

    texts = [
        write(model, prompt, 20, Sampling(temperature=2.0, seed=seed))
        for seed in (1, 1, 2)
    ]

    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=1),
        Sampling(temperature=2.0, top_k=4, seed=2),
        Sampling(top_p=0.7, seed=3),
    ],
    ids=["as_it_is", "warm_and_top_k", "top_p"],
)
def test_tokens_come_as_often_as_they_are_likely(sampling: Sampling) -> None:
    """Pearson's χ² is over 18.5 in one of a thousand cases, if all is well."""
    likely = [0.05, 0.4, 0.1, 0.25, 0.2]
    num_draws = 400

    drawn = write(model_of_fixed_opinion(likely), [0], num_draws, sampling)

    logits = torch.tensor([likely]).log()
    expected = num_draws * next_token_probabilities(logits, sampling)[0]
    counts = torch.tensor(drawn).bincount(minlength=len(likely))
    possible = expected > 0
    assert counts[~possible].sum() == 0
    deviations = (counts - expected)[possible] ** 2 / expected[possible]
    assert deviations.sum() < 18.5


@pytest.mark.parametrize("surroundings", [1, 2])
def test_chance_is_the_text_s_own(surroundings: int) -> None:
    """Neither does the rest of the program decide the text, nor the other way round."""
    model = lively_model()
    sampling = Sampling(temperature=2.0, seed=1)
    expected = write(model, [3], 5, sampling)
    torch.manual_seed(surroundings)
    state = torch.get_rng_state()

    new_ids = write(model, [3], 5, sampling)

    assert new_ids == expected
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("temperature", -0.5),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_k", 0),
        ("top_k", -3),
        ("top_p", 0.0),
        ("top_p", -0.1),
        ("top_p", 1.5),
        ("top_p", math.nan),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_values_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .*, got {value}$"):
        Sampling(**{name: value})  # type: ignore[arg-type]
