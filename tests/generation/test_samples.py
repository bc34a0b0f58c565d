"""Samples: prompts and their continuations, for a person to read."""

import re
from typing import Any

import pytest
from tokenizers import Tokenizer, processors

from tests.tiny import lively_model
from toygpt.data.tokenizer import END_OF_TEXT, train_tokenizer
from toygpt.generation import samples
from toygpt.generation.engine import generate
from toygpt.generation.samples import Sample, continue_prompts, to_markdown

VOCAB_SIZE = 270
PROMPT = "def main"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([["def main(path): return path"]], vocab_size=VOCAB_SIZE)


def sample(prompt: str = "Once", continuation: str = " upon", **changes: Any) -> Sample:
    """Return a sample that was cut off."""
    values: dict[str, Any] = {
        "prompt": prompt,
        "continuation": continuation,
        "prompt_tokens": 3,
        "new_tokens": 4,
        "stop_reason": "max_new_tokens",
    }
    return Sample(**(values | changes))


def test_the_prompt_is_continued_with_the_most_likely_tokens(
    tokenizer: Tokenizer,
) -> None:
    model = lively_model(vocab_size=VOCAB_SIZE)
    prompt_ids = tokenizer.encode(PROMPT).ids

    [written] = continue_prompts(
        model, tokenizer, [PROMPT], max_new_tokens=6, end_of_text_id=-1
    )

    new_ids = list(generate(model, prompt_ids, max_new_tokens=6, end_of_text_id=-1))
    assert written == Sample(
        prompt=PROMPT,
        continuation=tokenizer.decode(new_ids),
        prompt_tokens=len(prompt_ids),
        new_tokens=6,
        stop_reason="max_new_tokens",
    )


def test_a_sample_says_that_the_model_ended_the_text(tokenizer: Tokenizer) -> None:
    model = lively_model(vocab_size=VOCAB_SIZE)
    prompt_ids = tokenizer.encode(PROMPT).ids
    endless = list(generate(model, prompt_ids, max_new_tokens=6, end_of_text_id=-1))
    end_of_text_id = endless[-1]

    [written] = continue_prompts(
        model, tokenizer, [PROMPT], max_new_tokens=6, end_of_text_id=end_of_text_id
    )

    assert written.stop_reason == "end_of_text"
    assert written.new_tokens == endless.index(end_of_text_id)
    assert written.continuation == tokenizer.decode(endless[: written.new_tokens])


def test_nothing_is_added_to_the_prompt(tokenizer: Tokenizer) -> None:
    """Llama's tokenizer adds a token before every text; no document has it."""
    model = lively_model(vocab_size=VOCAB_SIZE)
    other = Tokenizer.from_str(tokenizer.to_str())
    other.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        special_tokens=[(END_OF_TEXT, other.token_to_id(END_OF_TEXT))],
    )
    assert len(other.encode(PROMPT).ids) == len(tokenizer.encode(PROMPT).ids) + 1

    written, expected = (
        continue_prompts(model, each, [PROMPT], max_new_tokens=6, end_of_text_id=-1)
        for each in (other, tokenizer)
    )

    assert written == expected


@pytest.mark.parametrize("at_once", [1, 3])
def test_many_prompts_are_continued_as_each_would_be(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    model = lively_model(vocab_size=VOCAB_SIZE)
    prompts = [PROMPT, "return", "d", "(path): def main(path)"]
    one_by_one = [
        continue_prompts(
            model, tokenizer, [prompt], max_new_tokens=9, end_of_text_id=-1
        )[0]
        for prompt in prompts
    ]

    monkeypatch.setattr(samples, "PROMPTS_AT_ONCE", at_once)
    written = continue_prompts(
        model, tokenizer, prompts, max_new_tokens=9, end_of_text_id=-1
    )

    assert written == one_by_one


def test_the_page_shows_every_prompt_and_its_continuation() -> None:
    shown = [
        sample("first prompt", "first answer", prompt_tokens=5, new_tokens=96),
        sample("second prompt", "second answer", stop_reason="end_of_text"),
    ]

    page = to_markdown(shown)

    assert re.findall(r"^## .*$", page, re.MULTILINE) == [
        "## 1. `first prompt` …",
        "## 2. `second prompt` …",
    ]
    assert "Given 5 tokens, the model wrote 96 more (cut off)." in page
    assert "Given 3 tokens, the model wrote 4 more (the model ended the text)." in page
    assert blocks_of(page) == [
        "first prompt",
        "first answer",
        "second prompt",
        "second answer",
    ]


@pytest.mark.parametrize("ticks", ["```", "````", "`````python"])
@pytest.mark.parametrize("place", ["prompt", "continuation"])
def test_code_blocks_in_a_text_do_not_end_ours(ticks: str, place: str) -> None:
    text = f"See:\n{ticks}\ncode\n{ticks}\nDone."

    page = to_markdown([sample(**{place: text}), sample("next", "one")])

    assert text in blocks_of(page)
    assert blocks_of(page)[2:] == ["next", "one"]


def test_the_title_is_one_line_without_backticks_of_its_own() -> None:
    page = to_markdown([sample("\n\n  def `f`():\n    pass\n")])

    assert "## 1. `def 'f'():` …\n" in page


def test_the_indentation_of_a_continuation_is_kept() -> None:
    page = to_markdown([sample(continuation="\n    return x\n\n")])

    assert blocks_of(page)[1] == "    return x"


def blocks_of(page: str) -> list[str]:
    """Return the contents of the fenced blocks, as Markdown (CommonMark) reads them."""
    blocks: list[list[str]] = []
    fence = ""
    for line in page.splitlines():
        ticks = len(line) - len(line.lstrip("`"))
        if fence and line.rstrip() == "`" * ticks and ticks >= len(fence):
            fence = ""
        elif fence:
            blocks[-1].append(line)
        elif ticks >= 3:
            fence = "`" * ticks
            blocks.append([])
    assert not fence, "the last block is never closed"
    return ["\n".join(block) for block in blocks]
