"""How a training is divided into steps, ranks and micro-batches."""

import pytest
import torch

from tests.tiny import BLOCK_SIZE, train_params
from tests.training.trained import TOKENS_PER_STEP, TRAIN_TEXT
from toygpt.data.batches import SpreadBatches, TrainingBatches
from toygpt.pipeline.errors import InputError
from toygpt.training.plan import (
    Plan,
    accumulation_steps,
    cut_into_micro_batches,
    plan_training,
    share_validation,
)


def plan_of(*, num_ranks: int = 1, micro_batch_size: int = 64, **changes: int) -> Plan:
    return plan_training(
        train_params(**changes),
        BLOCK_SIZE,
        num_ranks=num_ranks,
        max_micro_batch_size=micro_batch_size,
    )


@pytest.mark.parametrize(
    ("max_tokens", "num_steps"),
    [(1, 1), (TOKENS_PER_STEP, 1), (3 * TOKENS_PER_STEP + 1, 4)],
)
def test_a_part_of_a_step_is_a_step(max_tokens: int, num_steps: int) -> None:
    assert plan_of(max_tokens=max_tokens).num_steps == num_steps


@pytest.mark.parametrize(
    ("validate_every_steps", "expected"),
    [
        (5, [5, 10]),
        (4, [5, 10]),
        (3, [4, 8, 10]),
        (10, [10]),
        (100, [10]),
        (0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_validations_are_even_and_the_last_is_at_the_last_step(
    validate_every_steps: int, expected: list[int]
) -> None:
    plan = plan_of(validate_every_tokens=validate_every_steps * TOKENS_PER_STEP + 1)

    assert [step for step in range(1, 11) if plan.is_validation_due(step)] == expected


@pytest.mark.parametrize(
    ("num_steps", "every", "last"), [(10, 1, 10), (401, 2, 401), (1_000, 5, 1_000)]
)
def test_a_curve_has_about_two_hundred_points(
    num_steps: int, every: int, last: int
) -> None:
    plan = plan_of(max_tokens=num_steps * TOKENS_PER_STEP)

    due = [step for step in range(1, num_steps + 1) if plan.is_report_due(step)]

    assert due[0] == every
    assert due[-1] == last
    assert len(due) <= 201


@pytest.mark.parametrize(
    ("batch_size", "num_ranks", "micro_batch_size", "expected"),
    [
        (16, 1, 64, 1),
        (16, 1, 16, 1),
        (16, 1, 15, 2),
        (16, 4, 4, 1),
        (16, 4, 1, 4),
        (12, 1, 5, 3),  # four at once: five would not share twelve evenly
        (7, 1, 4, 7),
        (1, 1, 1, 1),
    ],
)
def test_a_batch_is_cut_into_as_few_equal_micro_batches_as_fit(
    batch_size: int, num_ranks: int, micro_batch_size: int, expected: int
) -> None:
    assert accumulation_steps(batch_size, num_ranks, micro_batch_size) == expected


@pytest.mark.parametrize(("batch_size", "num_ranks"), [(10, 4), (2, 4), (3, 2)])
def test_devices_that_cannot_share_a_batch_are_refused(
    batch_size: int, num_ranks: int
) -> None:
    with pytest.raises(
        InputError,
        match=rf"train\.batch_size \({batch_size}\).*devices \({num_ranks};",
    ):
        accumulation_steps(batch_size, num_ranks, 64)


@pytest.mark.parametrize(
    ("num_ranks", "micro_batch_size"), [(1, 8), (2, 4), (1, 2), (2, 2)]
)
def test_micro_batches_of_all_ranks_are_the_batch_each_with_a_dropout_of_its_own(
    num_ranks: int, micro_batch_size: int
) -> None:
    batches = TrainingBatches(TRAIN_TEXT, block_size=BLOCK_SIZE, batch_size=8, seed=1)
    plan = plan_of(num_ranks=num_ranks, micro_batch_size=micro_batch_size)
    seeds = []

    for step in range(3):
        found = [
            micro_batch
            for rank in range(num_ranks)
            for micro_batch in cut_into_micro_batches(batches, step, plan, rank=rank)
        ]
        parts = torch.cat([micro_batch.sequences for micro_batch in found])
        assert torch.equal(parts, batches.sequences(step))
        seeds += [micro_batch.dropout_seed for micro_batch in found]

    assert len(set(seeds)) == len(seeds) == 3 * 8 // micro_batch_size


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_ranks_share_the_validation_batches_and_get_equally_many(
    num_ranks: int,
) -> None:
    """Eleven blocks in four batches: each counts once, and no rank waits for ever."""

    batches = SpreadBatches(
        TRAIN_TEXT, block_size=BLOCK_SIZE, batch_size=3, max_tokens=11 * BLOCK_SIZE
    )

    shares = [
        list(share_validation(batches, rank=rank, num_ranks=num_ranks))
        for rank in range(num_ranks)
    ]

    assert len({len(share) for share in shares}) == 1
    counted = [
        sequences.tolist()
        for share in shares
        for sequences, weight in share
        if weight == len(sequences)
    ]
    assert sorted(counted) == sorted(batches[n].tolist() for n in range(4))
    assert sum(weight for share in shares for _, weight in share) == 11


def test_a_rank_reads_its_own_validation_batches_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = SpreadBatches(
        TRAIN_TEXT, block_size=BLOCK_SIZE, batch_size=3, max_tokens=11 * BLOCK_SIZE
    )
    read: list[int] = []

    def note(_: SpreadBatches, number: int) -> torch.Tensor:
        read.append(number)
        return torch.zeros(3, 1)

    monkeypatch.setattr(SpreadBatches, "__getitem__", note)
    list(share_validation(batches, rank=1, num_ranks=3))

    assert read == [1, 3]
