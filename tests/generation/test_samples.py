"""Samples: prompts and their continuations, for a person to read."""

import re
from typing import Any

import pytest
from tokenizers import Tokenizer, processors

from tests.generation.rungs import NEVER, generate
from tests.tiny import lively_model
from toygpt.data.tokenizer import END_OF_TEXT, train_tokenizer
from toygpt.generation import samples
from toygpt.generation.samples import Sample, continue_prompts, to_markdown

VOCAB_SIZE = 270
PROMPT = "def main"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([["def main(path): return path"]], vocab_size=VOCAB_SIZE)


def sample(prompt: str = "Once", continuation: str = "upon", **changes: Any) -> Sample:
    """Return a sample that was cut off."""
    cut_off = Sample(prompt, continuation, 3, 4, "max_new_tokens")
    return cut_off._replace(**changes)


@pytest.mark.parametrize("at_once", [1, 3])
def test_prompts_are_continued_with_the_most_likely_tokens(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Each as alone, and with no token added, as Llama's tokenizer would."""
    monkeypatch.setattr(samples, "PROMPTS_AT_ONCE", at_once)
    model = lively_model(vocab_size=VOCAB_SIZE)
    prompts = [PROMPT, "return", "d", "(path): def main(path)"]
    expected = []
    for prompt in prompts:
        prompt_ids = tokenizer.encode(prompt).ids
        new_ids = generate(model, prompt_ids, 9)
        text = tokenizer.decode(new_ids)
        expected.append(Sample(prompt, text, len(prompt_ids), 9, "max_new_tokens"))
    adding = Tokenizer.from_str(tokenizer.to_str())
    adding.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        special_tokens=[(END_OF_TEXT, adding.token_to_id(END_OF_TEXT))],
    )
    assert len(adding.encode(PROMPT).ids) == len(tokenizer.encode(PROMPT).ids) + 1

    for each in (tokenizer, adding):
        written = continue_prompts(
            model, each, prompts, max_new_tokens=9, end_of_text_id=NEVER
        )
        assert written == expected


def test_a_sample_says_that_the_model_ended_the_text(tokenizer: Tokenizer) -> None:
    model = lively_model(vocab_size=VOCAB_SIZE)
    endless = generate(model, tokenizer.encode(PROMPT).ids, 6)
    end_of_text_id = endless[-1]

    [written] = continue_prompts(
        model, tokenizer, [PROMPT], max_new_tokens=6, end_of_text_id=end_of_text_id
    )

    assert written.stop_reason == "end_of_text"
    assert written.new_tokens == endless.index(end_of_text_id)
    assert written.continuation == tokenizer.decode(endless[: written.new_tokens])


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


def test_a_title_is_one_line_and_indentation_is_kept() -> None:
    shown = sample("\n\n  def `f`():\n    pass\n", "\n    return x\n\n")

    page = to_markdown([shown])

    assert "## 1. `def 'f'():` …\n" in page
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
