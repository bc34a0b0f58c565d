"""How a training is divided: into steps, and the batch of a step into micro-batches.

A batch of 16 sequences on two devices that hold 4 sequences at once:

    rank 0    sequences 0-3, then 4-7       two micro-batches: accumulation_steps = 2
    rank 1    sequences 8-11, then 12-15
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from toygpt.data.batches import Sequences, SpreadBatches, TrainingBatches
from toygpt.pipeline.errors import InputError
from toygpt.training.settings import TrainSettings

# A curve of so many points is as smooth as a screen can show.
POINTS_PER_CURVE = 200


@dataclass(frozen=True)
class Plan:
    """The steps of a training, and what comes after which of them."""

    num_steps: int
    tokens_per_step: int
    accumulation_steps: int  # micro-batches in a step, on each rank
    micro_batch_size: int  # sequences
    report_every: int  # steps
    validate_every: int  # steps

    def is_report_due(self, step: int) -> bool:
        """Return whether the curves get a point after so many steps."""
        return step % self.report_every == 0 or step == self.num_steps

    def is_validation_due(self, step: int) -> bool:
        """Return whether the validation loss is computed after so many steps."""
        return step % self.validate_every == 0 or step == self.num_steps


def plan_training(
    params: TrainSettings,
    block_size: int,
    *,
    num_ranks: int,
    max_micro_batch_size: int,
) -> Plan:
    """Return how the training is divided among steps, ranks and micro-batches.

    Args:
        params: The section `train`.
        block_size: Tokens of a sequence.
        num_ranks: How many devices share a batch.
        max_micro_batch_size: Sequences that a device may hold at once.

    Raises:
        InputError: The ranks cannot share a batch evenly.
    """
    steps = num_steps(params, block_size)
    num_validations = max(1, round(params.max_tokens / params.validate_every_tokens))
    accumulation = accumulation_steps(
        params.batch_size, num_ranks, max_micro_batch_size
    )
    return Plan(
        num_steps=steps,
        tokens_per_step=params.batch_size * block_size,
        accumulation_steps=accumulation,
        micro_batch_size=params.batch_size // num_ranks // accumulation,
        report_every=max(1, steps // POINTS_PER_CURVE),
        validate_every=math.ceil(steps / num_validations),
    )


def num_steps(params: TrainSettings, block_size: int) -> int:
    """Return how many optimizer steps it takes to see all tokens."""
    return math.ceil(params.max_tokens / (params.batch_size * block_size))


def accumulation_steps(
    batch_size: int, num_ranks: int, max_micro_batch_size: int
) -> int:
    """Return the smallest number of equal micro-batches that are small enough.

    Raises:
        InputError: The ranks cannot share a batch evenly.
    """
    per_rank, rest = divmod(batch_size, num_ranks)
    if rest or not per_rank:
        raise InputError(
            f"train.batch_size ({batch_size}) must be a multiple of the number of "
            f"devices ({num_ranks}; see runtime.devices in params.yaml)"
        )
    return next(
        number
        for number in range(1, per_rank + 1)
        if per_rank % number == 0 and per_rank // number <= max_micro_batch_size
    )


class MicroBatch(NamedTuple):
    """Sequences that a device holds at once, and the seed of their dropout."""

    sequences: Sequences
    dropout_seed: int


def cut_into_micro_batches(
    batches: TrainingBatches, step: int, plan: Plan, *, rank: int
) -> list[MicroBatch]:
    """Return a rank's micro-batches of a step.

    Dropout is a function of the step and of the place in its batch, as everything
    random in training is: a resumed training drops what an uninterrupted one would have
    dropped, and several ranks drop what one would in micro-batches of the same size.
    """
    found = []
    for number in range(plan.accumulation_steps):
        first = (rank * plan.accumulation_steps + number) * plan.micro_batch_size
        rows = slice(first, first + plan.micro_batch_size)
        seed = np.random.SeedSequence((batches.seed, step, first)).generate_state(1)[0]
        found.append(MicroBatch(batches.sequences(step, rows=rows), int(seed)))
    return found


def share_validation(
    batches: SpreadBatches, *, rank: int, num_ranks: int
) -> Iterator[tuple[Sequences, int]]:
    """Yield a rank's share of the batches, each with its weight in the mean loss.

    All ranks get equally many, or one would wait for the others for ever: where too few
    are left, a rank gets the last batch of all again, with a weight of zero.
    """
    for first in range(0, len(batches), num_ranks):
        is_own = first + rank < len(batches)
        sequences = batches[first + rank if is_own else len(batches) - 1]
        yield sequences, len(sequences) if is_own else 0
