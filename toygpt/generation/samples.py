"""Samples: prompts that the model continues, for a person to read."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from tokenizers import Tokenizer
from tqdm import tqdm

from toygpt.generation.fastest import generate_batch
from toygpt.model.gpt import GPT

# More would need more memory, but save hardly any time.
PROMPTS_AT_ONCE = 16

StopReason = Literal["end_of_text", "max_new_tokens"]


class Sample(NamedTuple):
    """A prompt and how the model continues it."""

    prompt: str
    continuation: str
    prompt_tokens: int
    new_tokens: int
    stop_reason: StopReason


def continue_prompts(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    end_of_text_id: int,
) -> list[Sample]:
    """Continue each prompt with the most likely tokens."""
    prompt_ids = [
        tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in prompts
    ]
    continued = continuations(
        model,
        prompt_ids,
        max_new_tokens=max_new_tokens,
        end_of_text_id=end_of_text_id,
    )
    return [
        Sample(
            prompt=prompt,
            continuation=tokenizer.decode(written),
            prompt_tokens=len(given),
            new_tokens=len(written),
            stop_reason="max_new_tokens"
            if len(written) == max_new_tokens
            else "end_of_text",
        )
        for prompt, given, written in zip(prompts, prompt_ids, continued, strict=True)
    ]


def continuations(
    model: GPT,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    end_of_text_id: int,
    description: str = "generate",
) -> list[list[int]]:
    """Return the most likely tokens after each prompt, a few prompts at once."""
    new_ids: list[list[int]] = [[] for _ in prompts]
    for first in tqdm(
        range(0, len(prompts), PROMPTS_AT_ONCE), desc=description, disable=None
    ):
        for step in generate_batch(
            model,
            prompts[first : first + PROMPTS_AT_ONCE],
            max_new_tokens=max_new_tokens,
            end_of_text_id=end_of_text_id,
        ):
            for number, token_id in step.items():
                new_ids[first + number].append(token_id)
    return new_ids


def to_markdown(samples: list[Sample]) -> str:
    """Return the samples as a page: each prompt, and below it the whole text."""
    page = ["# What the model writes", ""]
    for number, sample in enumerate(samples, start=1):
        ending = {
            "end_of_text": "the model ended the text",
            "max_new_tokens": "cut off",
        }[sample.stop_reason]
        fence = _fence_for(sample.prompt + sample.continuation)
        page += [
            f"## {number}. `{_first_line(sample.prompt)}` …",
            "",
            f"Given {sample.prompt_tokens} tokens, the model wrote {sample.new_tokens} "
            f"more ({ending}).",
            "",
            "Given:",
            "",
            fence,
            sample.prompt.rstrip("\n"),
            fence,
            "",
            "Written:",
            "",
            fence,
            sample.continuation.strip("\n"),
            fence,
            "",
        ]
    return "\n".join(page)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].replace("`", "'")


def _fence_for(text: str) -> str:
    """Return a Markdown fence longer than any row of backticks in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return fence
