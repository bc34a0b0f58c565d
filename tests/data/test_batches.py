"""Batches: the right tokens, each once an epoch, the same at any time, on any rank."""

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toygpt.data.batches import SpreadBatches, TrainingBatches, cut, cut_on_device
from toygpt.data.token_files import JoinedTokens, TokenIds

property_test = settings(max_examples=60)


class Case(NamedTuple):
    """A text, and how it is cut."""

    num_tokens: int
    block_size: int
    batch_size: int
    seed: int

    def batches(self) -> TrainingBatches:
        choices = self._asdict()
        return TrainingBatches(numbered_tokens(choices.pop("num_tokens")), **choices)


def numbered_tokens(num_tokens: int) -> TokenIds:
    """Return tokens that say where in the text they stand."""
    return np.arange(num_tokens, dtype=np.uint16)


sizes = st.integers(1, 8)
cases = st.builds(
    lambda more, block, batch, seed: Case(2 * block + more, block, batch, seed),
    *(st.integers(1, 100), sizes, sizes, st.integers(0, 2**32 - 1)),
)
steps = st.integers(0, 1000)


def starts(batches: TrainingBatches, first: int, num_steps: int) -> list[int]:
    """Return where in the numbered text the sequences of some steps begin."""
    steps = range(first, first + num_steps)
    return [start for step in steps for start in batches.batch(step)[0][:, 0].tolist()]


@property_test
@given(case=cases, step=steps)
def test_a_sequence_is_a_run_of_the_text_and_its_targets_come_one_token_later(
    case: Case, step: int
) -> None:
    """Numbered tokens show a wrapped index, too, as a place that is wrong."""
    inputs, targets = case.batches().batch(step)

    assert inputs.shape == (case.batch_size, case.block_size)
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(case.block_size))
    assert torch.equal(targets, inputs + 1)
    assert int(targets.max()) <= case.num_tokens - 1


@property_test
@given(case=cases, others=st.lists(steps, max_size=5), step=steps)
def test_a_batch_depends_on_the_seed_and_the_step_alone(
    case: Case, others: list[int], step: int
) -> None:
    """Not on the batches asked for before, of this training or of another."""
    expected, _ = case.batches().batch(step)
    batches = case.batches()
    for other in others:
        batches.batch(other)
        case._replace(seed=case.seed // 2).batches().batch(other)

    inputs, _ = batches.batch(step)

    assert torch.equal(inputs, expected)


@property_test
@given(case=cases)
def test_each_block_is_seen_once_an_epoch(case: Case) -> None:
    """Steps do not care where an epoch ends, so they are counted over sequences."""
    batches = case.batches()
    per_epoch = batches.blocks_per_epoch

    seen = starts(batches, 0, -(-2 * per_epoch // case.batch_size))

    covered = per_epoch * case.block_size
    assert case.num_tokens - 1 - 2 * case.block_size < covered < case.num_tokens
    for epoch in (seen[:per_epoch], seen[per_epoch : 2 * per_epoch]):
        offset = min(epoch)
        assert sorted(epoch) == [*range(offset, offset + covered, case.block_size)]
        assert offset < case.block_size


def epoch_of(seed: int, number: int) -> list[int]:
    """Return where the sequences of an epoch begin, in a text of 40 blocks."""
    case = Case(num_tokens=41 * 16 + 1, block_size=16, batch_size=40, seed=seed)
    return starts(case.batches(), number, 1)


@property_test
@given(case=cases, step=steps, data=st.data())
def test_the_rows_of_all_devices_make_up_the_whole_batch(
    case: Case, step: int, data: st.DataObject
) -> None:
    batches = case.batches()
    inner = st.sets(st.integers(1, max(1, case.batch_size - 1)), max_size=3)
    cuts = sorted({0, case.batch_size} | data.draw(inner))

    parts = [
        batches.batch(step, rows=slice(first, end)) for first, end in pairwise(cuts)
    ]

    inputs, targets = batches.batch(step)
    assert torch.equal(torch.cat([part for part, _ in parts]), inputs)
    assert torch.equal(torch.cat([part for _, part in parts]), targets)


@property_test
@given(case=cases, step=steps, data=st.data())
def test_a_batch_is_the_same_however_many_files_hold_the_text(
    case: Case, step: int, data: st.DataObject
) -> None:
    places = st.integers(0, case.num_tokens)
    cuts = sorted(data.draw(st.lists(places, max_size=9)))
    shards = np.split(numbered_tokens(case.num_tokens), cuts)
    choices = case._asdict()
    del choices["num_tokens"]

    inputs, targets = TrainingBatches(JoinedTokens(shards), **choices).batch(step)

    expected_inputs, expected_targets = case.batches().batch(step)
    assert torch.equal(inputs, expected_inputs)
    assert torch.equal(targets, expected_targets)


@pytest.mark.parametrize("key", ["seed", "number"])
def test_every_epoch_and_every_seed_has_an_order_of_its_own(key: str) -> None:
    epochs = [epoch_of(**{"seed": 1, "number": 0} | {key: n}) for n in range(20)]

    orders = {tuple(start // 16 for start in epoch) for epoch in epochs}

    assert len(orders) == 20
    assert not any(epoch == sorted(epoch) for epoch in epochs)


def test_every_epoch_cuts_the_text_elsewhere() -> None:
    """Else the network would never see some tokens with those before them."""
    offsets = {min(epoch_of(seed=1, number=number)) for number in range(200)}

    assert offsets == set(range(16))


@pytest.mark.parametrize(("block_size", "num_tokens"), [(1, 2), (8, 16), (8, 0)])
def test_a_text_too_short_for_one_block_is_refused(
    block_size: int, num_tokens: int
) -> None:
    case = Case(num_tokens, block_size, batch_size=1, seed=0)

    with pytest.raises(ValueError, match=f"{num_tokens} tokens are too few"):
        case.batches()


@pytest.mark.parametrize("token_type", ["<u2", "<u4"])
def test_batches_are_cut_from_the_disk(tmp_path: Path, token_type: str) -> None:
    """A map of a file gives what the network takes, and the largest id unharmed."""
    largest = int(np.iinfo(token_type).max)
    np.full(100, largest, dtype=token_type).tofile(tmp_path / "tokens.bin")
    tokens = np.memmap(tmp_path / "tokens.bin", dtype=token_type, mode="r")

    batches = TrainingBatches(tokens, block_size=8, batch_size=4, seed=0)
    inputs, targets = batches.batch(0)

    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.unique().tolist() == [largest]


@pytest.mark.parametrize("token_type", ["<u2", "<u4"])
@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(
                not torch.cuda.is_available(), reason="needs a GPU"
            ),
        ),
    ],
)
def test_sequences_are_sent_as_they_lie_on_disk_and_cut_on_the_device(
    device: str, token_type: str
) -> None:
    tokens = np.arange(100).astype(token_type)
    batches = TrainingBatches(tokens, block_size=8, batch_size=4, seed=0)
    sequences = batches.sequences(1)

    inputs, targets = cut_on_device(sequences, torch.device(device))

    assert sequences.element_size() == tokens.itemsize
    assert inputs.device.type == targets.device.type == device
    for found, expected in zip((inputs, targets), batches.batch(1), strict=True):
        assert torch.equal(found.cpu(), expected)


@property_test
@given(
    num_tokens=st.integers(0, 120),
    block_size=sizes,
    batch_size=sizes,
    max_tokens=st.integers(0, 150),
)
def test_spread_batches_read_whole_blocks_in_order_and_none_twice(
    num_tokens: int, block_size: int, batch_size: int, max_tokens: int
) -> None:
    tokens = numbered_tokens(num_tokens)

    spread = SpreadBatches(
        tokens, block_size=block_size, batch_size=batch_size, max_tokens=max_tokens
    )
    batches = [cut(spread[number]) for number in range(len(spread))]

    assert all(len(inputs) == batch_size for inputs, _ in batches[:-1])
    starts = [start for inputs, _ in batches for start in inputs[:, 0].tolist()]
    available = max(0, num_tokens - 1) // block_size
    assert len(starts) == min(available, max_tokens // block_size)
    assert starts == sorted(set(starts))
    for inputs, targets in batches:
        assert (inputs[:, 0] % block_size == 0).all()
        assert torch.equal(targets, inputs + 1)
        assert inputs.shape[1] == block_size


def test_spread_batches_leave_equal_gaps_from_the_first_token_on() -> None:
    spread = SpreadBatches(
        numbered_tokens(101), block_size=10, batch_size=8, max_tokens=50
    )

    assert len(spread) == 1
    assert spread[0][:, 0].tolist() == [0, 20, 40, 60, 80]
