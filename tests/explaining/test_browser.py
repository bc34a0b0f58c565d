"""The page in a browser: it draws, follows keys and sliders, and runs nothing else."""

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.explaining.samples import HOSTILE, loaded_model
from tests.pages.browser import (
    Browser,
    Page,
    assert_for_everybody,
    chromium,
    open_page,
)
from toygpt.explaining.page import explain
from toygpt.explaining.trace import trace
from toygpt.generation.sampling import Sampling, next_token_probabilities

pytestmark = pytest.mark.slow
PROMPT = "Once upon"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def write_page(folder: Path, prompt: str = PROMPT) -> Path:
    loaded = loaded_model(block_size=64)
    html = explain(loaded, prompt, max_new_tokens=3, digest="0" * 64)
    path = folder / "explain.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """Yield the page, which must have drawn without a complaint and stay so."""
    page, complaints = open_page(browser, write_page(tmp_path))
    yield page
    assert complaints == []
    page.close()


def test_each_step_is_drawn(page: Page) -> None:
    num_tokens = page.evaluate("tokens.length")

    assert page.locator("#tokens button").count() == num_tokens
    assert page.locator("#parts li").count() == 6
    assert page.locator("#heads .head").count() == 2
    assert page.locator("#lens tr").count() == 2 + 6
    assert page.locator("details pre mark").count() == 9
    for slot in page.locator("section div[id]").all():
        assert slot.inner_text() or slot.locator("svg").count(), slot.get_attribute(
            "id"
        )


def test_keys_follow_another_token_but_leave_sliders_alone(page: Page) -> None:
    place = page.evaluate("here.place")

    page.keyboard.press("ArrowLeft")
    assert page.evaluate("here.place") == place - 1
    page.locator("#tokens button").nth(1).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("here.place") == 2
    assert (
        page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    )
    page.locator("#temperature").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("here.place") == 2
    assert page.locator("#temperature + output").inner_text() == "1.05"


def test_a_block_and_a_head_are_chosen_and_keep_the_focus(page: Page) -> None:
    page.locator("#attention-step .blocks button").nth(1).press("Enter")
    page.locator("#head-1").press("Enter")

    assert page.evaluate("[here.layer, here.head]") == [1, 1]
    assert page.evaluate("document.activeElement.id") == "head-1"
    assert page.locator("#head-title").inner_text().startswith("Block 2, head 2")


@pytest.mark.parametrize(
    ("sliders", "sampling"),
    [
        ({}, Sampling()),
        ({"temperature": 0.5}, Sampling(temperature=0.5)),
        ({"top-k": 3}, Sampling(top_k=3)),
        ({"top-k": 30, "top-p": 0.3}, Sampling(top_k=30, top_p=0.3)),
        ({"temperature": 1.5, "top-p": 0.2}, Sampling(temperature=1.5, top_p=0.2)),
    ],
    ids=str,
)
@torch.inference_mode()
def test_the_sliders_choose_as_the_model_does(
    page: Page, sliders: dict[str, float], sampling: Sampling
) -> None:
    for name, value in sliders.items():
        page.locator(f"#{name}").fill(f"{value}")
    shown = page.evaluate("chances()")

    traced = trace(loaded_model(block_size=64).model, page.evaluate("tokens"))
    expected = next_token_probabilities(traced.logits, sampling)
    ids = page.evaluate("found.candidates.ids[here.place]")
    of_place = expected[page.evaluate("here.place")]
    assert np.allclose(shown[:-1], of_place[ids], rtol=0.03, atol=1e-4)
    assert sum(shown) == pytest.approx(1)


@torch.inference_mode()
def test_the_shares_of_attention_are_those_of_the_network(page: Page) -> None:
    traced = trace(loaded_model(block_size=64).model, page.evaluate("tokens"))

    for head, expected in enumerate(traced.scores.softmax(dim=-1).flatten(end_dim=1)):
        for place, row in enumerate(page.evaluate(f"shares[{head}]")):
            assert np.allclose(row, expected[place, : place + 1], atol=1e-3)


def test_a_token_is_drawn_by_its_chance(page: Page) -> None:
    page.locator("#top-k").fill("1")

    page.locator("#draw").click()

    best = page.evaluate("labels[found.candidates.ids[here.place][0]]")
    assert page.locator("#drawn .token").inner_text() == best


@pytest.mark.parametrize("prompt", [*HOSTILE, "z"])
def test_a_hostile_prompt_is_shown_and_does_nothing(
    browser: Browser, tmp_path: Path, prompt: str
) -> None:
    page, complaints = open_page(browser, write_page(tmp_path, prompt))

    assert page.locator("img, iframe, object").count() == 0
    assert page.locator("#tokens button").count() == page.evaluate("tokens.length")
    assert complaints == []
    page.close()


def test_what_a_hostile_page_does_is_noticed(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text("<script>alert('hello')</script><img src='x.png'>")

    page, complaints = open_page(browser, path)

    assert "hello" in complaints
    assert path.with_name("x.png").as_uri() in complaints
    page.close()


def test_the_page_works_in_the_frame_of_a_tracker(
    browser: Browser, tmp_path: Path
) -> None:
    """MLflow's gives a page scripts, but neither storage nor an address."""
    html = write_page(tmp_path).read_text(encoding="utf-8")
    outer = tmp_path / "tracker.html"
    outer.write_text(
        f'<iframe sandbox="allow-scripts" width="900" height="600" '
        f'srcdoc="{escape(html)}"></iframe>',
        encoding="utf-8",
    )
    page, complaints = open_page(browser, outer)
    frame = page.frames[1]

    frame.locator("nav a").nth(5).click()

    assert frame.locator("#lens-step").bounding_box()["y"] < 300
    assert frame.locator("#tokens button").count() == frame.evaluate("tokens.length")
    assert complaints in ([], ["about:srcdoc"])
    page.close()


def test_the_page_is_for_everybody(browser: Browser, tmp_path: Path) -> None:
    assert_for_everybody(browser, write_page(tmp_path, HOSTILE[0] + PROMPT))


def test_guesses_are_shown_beside_the_chance_of_the_token_itself(page: Page) -> None:
    """Without it they are shares of the rest, which may be next to nothing."""
    journey = page.locator("#parts .guesses").all_inner_texts()
    rows = page.locator("#neurons tbody tr").all_inner_texts()

    assert ["(itself: " in text for text in journey] == [True] * 5 + [False]
    assert all("(itself: " in text for text in rows)


def test_the_sum_of_the_votes_is_the_logit_above_the_average(page: Page) -> None:
    row = page.locator("#votes tr").last.inner_text()

    numbers = re.findall(r"[-+]?\d+\.\d\d", row.replace("\N{MINUS SIGN}", "-"))
    total, logit, average = map(float, numbers)
    assert total == pytest.approx(logit - average, abs=0.011)


@pytest.mark.parametrize("width", [390, 1280])
def test_labels_and_bars_are_within_their_frames(
    browser: Browser, tmp_path: Path, width: int
) -> None:
    viewport = {"width": width, "height": 900}
    page, _ = open_page(browser, write_page(tmp_path), viewport=viewport)

    for frame, inner in (("figure svg.matrix", "text"), ("#votes", ".bar")):
        outside = page.locator(frame).evaluate(
            """(frame, inner) => {
              const { left, right, top } = frame.getBoundingClientRect();
              return [...frame.querySelectorAll(inner)].filter((part) => {
                const box = part.getBoundingClientRect();
                return box.left < left || box.right > right || box.top < top;
              }).length;
            }""",
            inner,
        )
        assert outside == 0, frame
    page.close()
