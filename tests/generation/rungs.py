"""The rungs of the generation ladder, with one signature for all."""

from collections.abc import Callable

from toygpt.generation import engine, kv_cache, simple
from toygpt.generation.packed import pack
from toygpt.generation.sampling import Sampling
from toygpt.model.gpt import GPT

NEVER = -1  # no token has this id, so that no text ends


def by_engine(model: GPT, prompt_ids: list[int], **settings: object) -> list[int]:
    """Generate as the command line does, with the matrices as they are."""
    steps = engine.generate_batch(model, [prompt_ids], **settings)  # type: ignore[arg-type]
    return [step[0] for step in steps]


def by_packed(model: GPT, prompt_ids: list[int], **settings: object) -> list[int]:
    """Generate as the command line does."""
    return by_engine(pack(model), prompt_ids, **settings)


RUNGS: dict[str, Callable[..., list[int]]] = {
    "simple": simple.generate,
    "kv_cache": kv_cache.generate,
    "engine": by_engine,
    "packed": by_packed,
}


def generate(
    model: GPT,
    prompt_ids: list[int],
    num_tokens: int,
    sampling: Sampling | None = None,
    *,
    end_of_text_id: int = NEVER,
    rung: str = "engine",
) -> list[int]:
    return RUNGS[rung](
        model,
        prompt_ids,
        max_new_tokens=num_tokens,
        end_of_text_id=end_of_text_id,
        sampling=sampling,
    )


def generate_batch(
    model: GPT,
    prompts: list[list[int]],
    num_tokens: int,
    sampling: Sampling | None = None,
    *,
    end_of_text_id: int = NEVER,
) -> list[list[int]]:
    texts: list[list[int]] = [[] for _ in prompts]
    for new_ids in engine.generate_batch(
        model,
        prompts,
        max_new_tokens=num_tokens,
        end_of_text_id=end_of_text_id,
        sampling=sampling,
    ):
        for number, token_id in new_ids.items():
            texts[number].append(token_id)
    return texts
