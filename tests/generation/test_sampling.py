"""Sampling: which token comes next, and how often."""

import math
from typing import Any

import pytest
import torch

from tests.tiny import VOCAB_SIZE
from toygpt.generation.sampling import Sampling, choose_tokens, next_token_probabilities


@pytest.mark.slow  # to import transformers takes seconds
@pytest.mark.parametrize("temperature", [0.5, 1.7])
@pytest.mark.parametrize("top_k", [None, 1, 7, 1000])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.95, 1.0])
def test_probabilities_are_those_of_transformers(
    temperature: float, top_k: int | None, top_p: float | None
) -> None:
    from transformers.generation.logits_process import (
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5, VOCAB_SIZE, generator=generator).double()
    copy = logits.clone()
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)

    probabilities = next_token_probabilities(logits, sampling)

    scores = logits
    steps: list[Any] = [TemperatureLogitsWarper(temperature)]
    steps += [TopKLogitsWarper(top_k)] if top_k is not None else []
    steps += [TopPLogitsWarper(top_p)] if top_p is not None else []
    for step in steps:
        scores = step(None, scores)
    torch.testing.assert_close(probabilities, scores.softmax(dim=-1))
    assert torch.equal(logits, copy), "the caller's logits have changed"


@pytest.mark.parametrize(
    "sampling",
    [Sampling(top_k=1), Sampling(top_p=1e-46), Sampling(temperature=1e-300)],
    ids=["top_k", "top_p", "temperature"],
)
def test_extreme_settings_leave_the_most_likely_token(sampling: Sampling) -> None:
    logits = torch.tensor([[1.0, 3.0, -2.0]])

    assert next_token_probabilities(logits, sampling).tolist() == [[0, 1, 0]]
    assert choose_tokens(logits, sampling, [sampling.generator()]) == [1]
    assert choose_tokens(logits, None, []) == [1]


@pytest.mark.parametrize(
    ("top_p", "num_kept"), [(0.01, 1), (0.25, 1), (0.26, 2), (0.5, 2), (1.0, 4)]
)
def test_tokens_are_kept_until_they_reach_top_p(top_p: float, num_kept: int) -> None:
    four_alike = torch.zeros(1, 4)

    probabilities = next_token_probabilities(four_alike, Sampling(top_p=top_p))

    kept = probabilities[probabilities > 0]
    assert kept.tolist() == pytest.approx([1 / num_kept] * num_kept)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=1),
        Sampling(temperature=2.0, top_k=4, seed=2),
        Sampling(top_p=0.7, seed=3),
    ],
    ids=["plain", "temperature_and_top_k", "top_p"],
)
def test_tokens_come_as_often_as_they_are_likely(sampling: Sampling) -> None:
    """Pearson's χ² is over 18.5 in one of a thousand cases, if all is well."""
    logits = torch.tensor([[0.05, 0.4, 0.1, 0.25, 0.2]]).log()
    generator, num_draws = sampling.generator(), 400

    drawn = [
        token_id
        for _ in range(num_draws)
        for token_id in choose_tokens(logits, sampling, [generator])
    ]

    expected = num_draws * next_token_probabilities(logits, sampling)[0]
    counts = torch.tensor(drawn).bincount(minlength=logits.shape[1])
    possible = expected > 0
    assert counts[~possible].sum() == 0
    deviations = (counts - expected)[possible] ** 2 / expected[possible]
    assert deviations.sum() < 18.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", math.nan),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_values_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .*, got {value}$"):
        Sampling(**{name: value})  # type: ignore[arg-type]
