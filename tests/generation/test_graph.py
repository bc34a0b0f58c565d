"""A captured decode step gives the same texts; on a processor it is only recorded."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from tests.generation.recorded import Recording, record
from tests.generation.rungs import NEVER
from tests.tiny import (
    BLOCK_SIZE,
    CONFIG,
    VOCAB_SIZE,
    lively_model,
    random_tokens,
    tiny_model,
)
from toygpt.generation import engine, fastest, graph, simple
from toygpt.generation.engine import Text
from toygpt.generation.graph import MAX_STEPS_AT_ONCE, NUM_WARM_UP_STEPS, Decoder
from toygpt.generation.merged import MergedAttention, MergedFeedForward, merge
from toygpt.generation.packed import pack
from toygpt.generation.sampling import (
    Sampling,
    choose_on_device,
    next_token_probabilities,
)
from toygpt.model.gpt import GPT, Block, GPTConfig

STEADY: dict[str, Any] = {"num_tokens": 40, "end_of_text_id": NEVER, "seed": 5}
MIXED = [9, 40, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 1]
BABBLE = Sampling(temperature=1.5, top_p=0.9, seed=3)


@pytest.fixture(scope="module")
def recordings() -> Any:
    """Record decode steps instead of capturing them; return the list of recordings."""
    recordings: list[Recording] = []

    def capture(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        recording, replay = record(step)
        recordings.append(recording)
        return replay

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "can_capture", lambda model: True)
        patch.setattr(graph, "capture", capture)
        patch.setattr(graph, "MIN_REPLAYS", 1)
        yield recordings


def steps_of(
    rung: Any,
    model: GPT,
    prompts: list[list[int]],
    num_tokens: int,
    sampling: Sampling | None = None,
    end_of_text_id: int = NEVER,
) -> list[dict[int, int]]:
    return list(
        rung.generate_batch(
            model,
            prompts,
            max_new_tokens=num_tokens,
            end_of_text_id=end_of_text_id,
            sampling=sampling,
        )
    )


@pytest.mark.slow
@settings(max_examples=4, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 2 * BLOCK_SIZE), min_size=0, max_size=6),
    block_size=st.integers(2, BLOCK_SIZE),
    num_tokens=st.integers(0, 3 * BLOCK_SIZE),
    end_of_text_id=st.integers(NEVER, VOCAB_SIZE - 1),
    seed=st.integers(1, 50),
    sampling=st.sampled_from([None, BABBLE]),
)
@example(lengths=MIXED, block_size=3, sampling=None, **STEADY)
@example(lengths=MIXED, block_size=BLOCK_SIZE, sampling=None, **STEADY)
@example(lengths=MIXED, block_size=BLOCK_SIZE, sampling=BABBLE, **STEADY)
@example(lengths=[5, 5, 5], block_size=40, sampling=None, **STEADY)
def test_a_replayed_step_gives_the_tokens_of_the_engine(
    recordings: list[Recording],
    lengths: list[int],
    block_size: int,
    num_tokens: int,
    end_of_text_id: int,
    seed: int,
    sampling: Sampling | None,
) -> None:
    """Wherever texts begin, move their window, and end, greedy and sampling."""
    model = lively_model(seed=seed, block_size=block_size)
    prompts = [
        random_tokens(length, seed=seed + row).tolist()
        for row, length in enumerate(lengths)
    ]
    case = (model, prompts, num_tokens, sampling, end_of_text_id)

    steps = steps_of(graph, *case)

    assert steps == steps_of(engine, *case)


def test_a_merged_layer_is_its_layer() -> None:
    """ReLU bit for bit; in a larger product the last bit may differ."""
    block = lively_model(seed=2).blocks[0]
    assert isinstance(block, Block)
    x = torch.randn(3, 7, CONFIG["embed_dim"])

    with torch.inference_mode():
        assert torch.equal(
            MergedFeedForward(block.feed_forward)(x), block.feed_forward(x)
        )
        torch.testing.assert_close(
            MergedAttention(block.attention)(x), block.attention(x)
        )


@pytest.mark.parametrize("sampling", [None, BABBLE], ids=["greedy", "sampling"])
def test_one_text_is_that_of_the_first_rung(
    recordings: list[Recording], sampling: Sampling | None
) -> None:
    """Far beyond the block size; a step is captured once, and has no branches."""
    model, prompt = lively_model(seed=5), random_tokens(5).tolist()
    recordings.clear()

    steps = steps_of(graph, model, [prompt], 5 * BLOCK_SIZE, sampling)

    new_ids = [step[0] for step in steps]
    assert new_ids == simple.generate(
        model,
        prompt,
        max_new_tokens=5 * BLOCK_SIZE,
        end_of_text_id=NEVER,
        sampling=sampling,
    )
    assert len(set(new_ids)) > 3, "the text is too dull to show a mistake"
    assert len(recordings) == 1


def test_a_text_that_has_ended_reads_nothing_beyond_the_block(
    recordings: list[Recording],
) -> None:
    """On a GPU that would end the process."""
    model = lively_model()
    prompts = [random_tokens(BLOCK_SIZE - 1).tolist(), [3]]
    first, *later = steps_of(engine, model, prompts, 12)
    end_of_text_id = first[0]
    assert end_of_text_id not in [step[1] for step in (first, *later)]

    steps = steps_of(graph, model, prompts, 12, end_of_text_id=end_of_text_id)

    assert steps == [{1: step[1]} for step in (first, *later)]


def test_a_short_text_pays_for_no_capture(
    recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "MIN_REPLAYS", 12)  # more than Python reads at once
    recordings.clear()
    model = lively_model()

    for num_tokens, num_captures in [
        (12 + NUM_WARM_UP_STEPS, 0),  # the first token is the prefill's
        (13 + NUM_WARM_UP_STEPS, 1),
    ]:
        steps_of(graph, model, [[1, 2], [3]], num_tokens)
        assert len(recordings) == num_captures


def test_the_graph_is_the_network_alone(recordings: list[Recording]) -> None:
    """And has as few kernels as docs/decisions/generation.md counts."""
    model = lively_model()
    merge(model)
    recordings.clear()
    steps_of(graph, model, [[1, 2], [3]], 8)

    kernels = recordings[0].kernels

    assert len(kernels) == 11 * len(model.blocks) + 9


def test_a_number_of_python_would_stay_what_it_was_at_the_capture() -> None:
    """The stand-in is as strict as a graph: it would show this mistake."""
    position = [0]
    tensor = torch.zeros(3)

    def step() -> Tensor:
        tensor.add_(1)
        return tensor + position[0]

    _, replay = record(step)
    assert tensor.tolist() == [0] * 3, "recording has changed something"
    position[0] = 7

    assert replay().tolist() == [1] * 3
    assert replay().tolist() == [2] * 3
    with pytest.raises(AssertionError, match="not in a graph"):
        record(lambda: tensor + int(tensor[0]))
    with pytest.raises(AssertionError, match="not in a graph"):
        record(lambda: tensor[tensor > 0])


def test_python_reads_the_tokens_of_eight_steps_at_once(
    recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []
    next_ids = Decoder.next_ids

    def noted(*arguments: Any, **settings: Any) -> list[list[int]]:
        steps = next_ids(*arguments, **settings)
        turns.append(len(steps))
        return steps

    monkeypatch.setattr(Decoder, "next_ids", noted)

    steps_of(graph, lively_model(block_size=40), [[1, 2, 3]], 32)

    assert MAX_STEPS_AT_ONCE == 8
    assert turns == [1, 8, 8, 8, 7]


def test_two_texts_can_be_generated_in_turns(recordings: list[Recording]) -> None:
    """Each has tensors of its own; the mode without gradients ends with each turn."""
    model, prompts = lively_model(), [[1, 2, 3], [4]]
    settings: dict[str, Any] = {"max_new_tokens": 40, "end_of_text_id": NEVER}
    turns = zip(
        *(graph.generate_batch(model, [prompt], **settings) for prompt in prompts),
        strict=True,
    )

    both = [next(turns)]
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    both += turns

    assert [*zip(*both, strict=True)] == [
        tuple(steps_of(engine, model, [prompt], 40)) for prompt in prompts
    ]


def test_a_step_that_cannot_be_captured_runs_without(
    recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(step: object) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graph, "capture", refuse)
    model, prompts = lively_model(), [[1, 2, 3], [4]]

    with pytest.warns(UserWarning, match="could not be captured .*: operation not"):
        steps = steps_of(graph, model, prompts, 40)

    assert steps == steps_of(engine, model, prompts, 40)


@pytest.mark.slow  # fake tensors take seconds to import
def test_python_waits_for_no_token_and_all_tensors_are_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With tensors that have a device but no content, no GPU is needed to see it."""
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    texts = {row: Text(row, [1] * (row + 1), torch.Generator()) for row in range(3)}
    with FakeTensorMode(), torch.inference_mode():
        with torch.device("cuda"):
            model = pack(GPT(GPTConfig(**CONFIG | {"block_size": 20})))
        decoder = Decoder(model, num_sequences=3, max_tokens=99, sampling=None)
        static = [decoder._cache.positions, decoder._last_ids, decoder._unread_ids]
        addresses = [*map(id, static)]

        decoder._prefill(texts, [0, 1])
        decoder._decode(texts, [0, 1], decoder._unread_ids[:2])
        decoder._decode(texts, [0, 1], decoder._unread_ids[:1])
        logits = decoder._read_last_ids()
        probabilities = next_token_probabilities(logits, BABBLE)

        for tensor in (*static, logits, probabilities):
            assert tensor.device.type == "cuda"
        # Else attention would copy the mask, in every layer.
        assert not any(step % 16 for step in decoder._cache._view.mask.stride()[:-1])
        with pytest.raises(DataDependentOutputException):  # this would wait
            decoder._unread_ids.tolist()
    static = [decoder._cache.positions, decoder._last_ids, decoder._unread_ids]
    assert addresses == [*map(id, static)]


def test_the_memory_of_a_text_is_free_as_soon_as_it_has_ended(
    recordings: list[Recording],
) -> None:
    """Not only when Python looks for circles, which it does not know to be large."""
    recordings.clear()
    model = lively_model()
    decoder = Decoder(model, num_sequences=1, max_tokens=20, sampling=None)
    text = Text(0, [1, 2, 3], torch.Generator())
    for _ in range(2):
        decoder.next_ids({0: text}, max_steps=8)
    assert recordings, "the graph may keep the memory, too"
    keys = weakref.ref(decoder._cache._keys)
    recordings.clear()

    del decoder

    assert keys() is None


def test_sampling_draws_the_numbers_of_multinomial() -> None:
    logits = 3 * random_tokens(4, VOCAB_SIZE).log1p()
    sampling = Sampling(seed=1)
    generators, others = ([sampling.generator(i) for i in range(4)] for _ in range(2))
    probabilities = logits.double().softmax(dim=-1)

    for _ in range(20):
        chosen = choose_on_device(logits, sampling, generators).tolist()
        assert chosen == [
            int(row.multinomial(1, generator=other))
            for row, other in zip(probabilities, others, strict=True)
        ]


@pytest.mark.parametrize(("device", "is_graph"), [("cpu", False), ("cuda", True)])
def test_the_commands_use_the_graph_on_a_gpu_of_cuda_alone(
    device: str, is_graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rung in (engine, graph):
        monkeypatch.setattr(rung, "generate_batch", lambda *_, r=rung, **__: iter([r]))
    monkeypatch.setattr(GPT, "device", torch.device(device))

    used: list[Any] = steps_of(fastest, tiny_model(), [[1]], 1)

    assert used == [graph if is_graph else engine]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA")
@pytest.mark.parametrize("sampling", [None, BABBLE], ids=["greedy", "sampling"])
def test_a_gpu_replays_what_the_engine_computes(sampling: Sampling | None) -> None:
    model = lively_model(block_size=64).to("cuda")
    prompts = [random_tokens(length).tolist() for length in MIXED]

    steps = steps_of(graph, model, prompts, 150, sampling)

    assert steps == steps_of(engine, model, prompts, 150, sampling)
