"""What the model writes when it is given a beginning, for a person to read."""

from typing import Literal, NamedTuple

from tokenizers import Tokenizer

from toygpt.model.generation import generate
from toygpt.model.gpt import GPT

StopReason = Literal["end_of_text", "max_new_tokens"]


class Sample(NamedTuple):
    """A prompt and how the model continues it."""

    prompt: str
    continuation: str
    prompt_tokens: int
    new_tokens: int
    stop_reason: StopReason


def continue_prompt(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int,
    end_of_text_id: int,
) -> Sample:
    """Continue a prompt with the most likely tokens."""
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    new_ids = list(
        generate(
            model,
            prompt_ids,
            max_new_tokens=max_new_tokens,
            end_of_text_id=end_of_text_id,
        )
    )
    return Sample(
        prompt=prompt,
        continuation=tokenizer.decode(new_ids),
        prompt_tokens=len(prompt_ids),
        new_tokens=len(new_ids),
        stop_reason="max_new_tokens"
        if len(new_ids) == max_new_tokens
        else "end_of_text",
    )


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
