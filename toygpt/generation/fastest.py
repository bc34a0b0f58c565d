"""The fastest rung for the device at hand: what the commands use."""

from collections.abc import Iterator, Sequence

from toygpt.generation import engine, graph
from toygpt.generation.sampling import Sampling
from toygpt.model.gpt import GPT


def generate_batch(
    model: GPT,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    end_of_text_id: int,
    sampling: Sampling | None = None,
) -> Iterator[dict[int, int]]:
    """Yield the next token of every text, as `generate_batch` of engine.py.

    On a GPU of CUDA a captured graph does it: graph.py.
    """
    rung = graph if model.device.type == "cuda" else engine
    return rung.generate_batch(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        end_of_text_id=end_of_text_id,
        sampling=sampling,
    )
