"""Generate on a GPU of CUDA: one decode step is captured as a graph, and replayed.

A decode step of `small` is some two hundred kernels of a few microseconds each. To
launch them from Python, one by one, takes longer than to run them. A CUDA graph is
launched as one: it repeats the very same kernels on the very same memory. The rung
beside packed.py on the ladder that begins in simple.py; it gives the same tokens.

What a graph demands (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)
and where it is met:

- fixed addresses, shapes and Python numbers: static_cache.py;
- no wait for the GPU, no random numbers, no branches: the graph is the network alone;
  tokens are chosen after it, on the GPU, and read by Python eight steps at a time;
- the same kernels have run on the same stream before: so do the first decode steps.

A short text is generated without a graph: the capture would cost more than it saves.

docs/decisions/generation.md has the arithmetic.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from toygpt.generation.engine import Text
from toygpt.generation.sampling import Sampling, choose_on_device
from toygpt.generation.static_cache import StaticCache
from toygpt.model.gpt import GPT

# To read a token means to wait for the GPU, which then waits for Python.
MAX_STEPS_AT_ONCE = 8
# Decode steps before the capture: as many as `torch.cuda.make_graphed_callables` runs.
NUM_WARM_UP_STEPS = 3
# A capture takes some 20 ms, and each replay saves about one. Both are estimated.
MIN_REPLAYS = 20
# All but cuDNN's: it prepares a plan for each new length of a prompt, in 23 to 37 ms.
ATTENTIONS = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]

# A decode step: it returns the logits of every sequence.
Step = Callable[[], Tensor]


def generate_batch(
    model: GPT,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    end_of_text_id: int,
    sampling: Sampling | None = None,
) -> Iterator[dict[int, int]]:
    """Yield the next token of every text, as `generate_batch` of engine.py.

    Up to eight steps come at once. A text that has ended keeps its row until all have
    ended: the shapes of a graph are fixed.

    Raises:
        ValueError: An empty prompt: there is nothing to continue.

    >>> from toygpt.model.gpt import GPTConfig
    >>> seed = torch.manual_seed(1)
    >>> config = GPTConfig(
    ...     vocab_size=50, num_layers=2, num_heads=2, block_size=8, embed_dim=16,
    ...     dropout=0.0,
    ... )
    >>> model = GPT(config).eval()
    >>> prompts = [[1, 2, 3], [4]]
    >>> for new in generate_batch(model, prompts, max_new_tokens=3, end_of_text_id=0):
    ...     print(new)
    {0: 46, 1: 46}
    {0: 46, 1: 46}
    {0: 46, 1: 46}
    """
    if not all(prompts):
        raise ValueError("the prompt is empty: there is nothing to continue")
    block_size = model.config.block_size
    source = sampling or Sampling()
    texts = {
        row: Text(row, prompt[-block_size:], source.generator(row, model.device))
        for row, prompt in enumerate(prompts)
    }
    longest = max((len(text.window) for text in texts.values()), default=0)
    decoder = Decoder(
        model,
        num_sequences=len(texts),
        max_tokens=longest + max_new_tokens,
        sampling=sampling,
    )
    remaining = max_new_tokens
    while remaining > 0:
        for next_ids in decoder.next_ids(texts, max_steps=remaining):
            texts = {
                row: text
                for row, text in texts.items()
                if next_ids[row] != end_of_text_id
            }
            if not texts:
                return
            for row, text in texts.items():
                text.window.append(next_ids[row])
            yield {row: next_ids[row] for row in texts}
            remaining -= 1
        for row, text in texts.items():
            if len(text.window) > block_size:
                text.window = text.window[-(block_size // 2) :]
                decoder.clear(row)


class Decoder:
    """Reads and chooses the tokens of a fixed number of sequences, several at once."""

    def __init__(
        self,
        model: GPT,
        *,
        num_sequences: int,
        max_tokens: int,
        sampling: Sampling | None,
    ) -> None:
        device = model.device
        self._model = model
        self._sampling = sampling
        self._lengths = [0] * num_sequences  # tokens of each sequence in the cache
        self._cache = StaticCache(
            model, num_sequences=num_sequences, max_tokens=max_tokens
        )
        # The newest token of each sequence, and those that Python has not read yet.
        shape = (MAX_STEPS_AT_ONCE, num_sequences)
        self._unread_ids = torch.zeros(shape, dtype=torch.long, device=device)
        self._last_ids = torch.zeros_like(self._unread_ids[0])
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._can_capture = can_capture(model)
        self._num_eager_steps = 0
        self._replay: Step | None = None

    def clear(self, row: int) -> None:
        """Empty the row of a sequence, for another prefill."""
        self._lengths[row] = 0

    @torch.inference_mode()
    def next_ids(self, texts: Mapping[int, Text], *, max_steps: int) -> list[list[int]]:
        """Return the next tokens of the texts: for each step, one for every row.

        Args:
            texts: The texts that have not ended, by their row. The tokens of all other
                rows mean nothing.
            max_steps: How many tokens each text may get, at least one.
        """
        new = [row for row in texts if self._lengths[row] == 0]
        running = [row for row in texts if self._lengths[row] > 0]
        longest = max((self._lengths[row] for row in running), default=0)
        room = self._model.config.block_size - longest
        num_steps = 1 if new else min(max_steps, room, MAX_STEPS_AT_ONCE)
        if self._num_eager_steps + max_steps < NUM_WARM_UP_STEPS + MIN_REPLAYS:
            self._can_capture = False
        with self._own_stream(), sdpa_kernel(ATTENTIONS):
            chosen = self._unread_ids[:num_steps]
            if running:
                self._decode(texts, running, chosen)
            if new:
                self._prefill(texts, new)
                chosen[0] = self._last_ids
            return chosen.tolist()

    def _prefill(self, texts: Mapping[int, Text], rows: list[int]) -> None:
        """Read all tokens of some sequences, and choose the next token of each."""
        windows = [texts[row].window for row in rows]
        lengths = [len(window) for window in windows]
        padded = [window + [0] * (max(lengths) - len(window)) for window in windows]
        places = self._select(rows)
        cache = self._cache.for_prefill(places, max(lengths))
        x = self._model.read(torch.tensor(padded, device=self._model.device), cache)
        last = x[range(len(rows)), [length - 1 for length in lengths]]
        self._choose(self._model.to_logits(last), texts, rows, places)
        for row, length in zip(rows, lengths, strict=True):
            self._lengths[row] = length

    def _decode(
        self,
        texts: Mapping[int, Text],
        rows: list[int],
        chosen: Int[Tensor, "steps batch"],
    ) -> None:
        """Read and choose tokens of some sequences, as many of each as fit `chosen`."""
        places = self._select(rows)
        # Rows of ended texts, and of texts to be prefilled, decode a token at position
        # zero: that harms nothing, and stays inside the cache.
        starts = [self._lengths[row] if row in rows else 0 for row in self._all_rows]
        self._cache.positions.copy_(torch.tensor(starts)[:, None])
        for ids in chosen:
            self._choose(self._decode_step()[places], texts, rows, places)
            ids.copy_(self._last_ids)
        for row in rows:
            self._lengths[row] += len(chosen)

    def _decode_step(self) -> Float[Tensor, "batch vocab"]:
        """Read the newest token of every sequence, by the graph once it is captured."""
        if self._can_capture and self._num_eager_steps == NUM_WARM_UP_STEPS:
            self._can_capture = False  # once is enough
            try:
                self._replay = capture(self._read_last_ids)
            except RuntimeError as error:  # nothing has run: the text can continue
                warnings.warn(
                    f"the decode step could not be captured as a CUDA graph, and runs "
                    f"without, more slowly: {error}",
                    stacklevel=2,
                )
        if self._replay is not None:
            return self._replay()
        self._num_eager_steps += 1
        return self._read_last_ids()

    def _read_last_ids(self) -> Float[Tensor, "batch vocab"]:
        """Run the network on the newest tokens: what is captured."""
        self._cache.look_up_positions()
        logits = self._model(self._last_ids[:, None], self._cache)[:, -1]
        self._cache.positions.add_(1)
        return logits

    def _choose(
        self,
        logits: Float[Tensor, "batch vocab"],
        texts: Mapping[int, Text],
        rows: list[int],
        places: slice | Tensor,
    ) -> None:
        """Choose the newest token of some sequences, without waiting for the GPU."""
        generators = [texts[row].generator for row in rows]
        self._last_ids[places] = choose_on_device(logits, self._sampling, generators)

    @property
    def _all_rows(self) -> range:
        return range(len(self._lengths))

    def _select(self, rows: list[int]) -> slice | Tensor:
        """Return an index of these rows; of all rows, a slice, which copies nothing."""
        if rows == [*self._all_rows]:
            return slice(None)
        return torch.tensor(rows, device=self._model.device)

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Queue work on a stream of its own: the default stream cannot be captured."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):  # of None: nothing changes
            yield


def can_capture(model: GPT) -> bool:
    """Return whether a decode step of the model can be captured.

    In deterministic mode PyTorch sorts the places that it writes to, and sorting waits.
    """
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    return model.device.type == "cuda" and not is_deterministic


def capture(step: Step) -> Step:
    """Record the kernels of a step on the current stream; return what runs them.

    Nothing is computed while it is recorded. Each replay writes the logits to the same
    memory, which belongs to the graph alone: they are read before the next replay.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        logits = step()

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay
