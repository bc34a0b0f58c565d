"""The page in a browser: it draws, follows keys and sliders, and runs nothing else.

To load a page again takes less time than to open another one.
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.explaining.samples import HOSTILE, VOCAB_SIZE, loaded_model
from tests.pages.browser import (
    Browser,
    Page,
    assert_for_everybody,
    chromium,
    load,
    open_page,
)
from toygpt.explaining.page import explain
from toygpt.explaining.trace import trace
from toygpt.generation.sampling import Sampling, next_token_probabilities
from toygpt.pages.labels import escaped

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


@pytest.fixture(scope="module")
def opened(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Page, list[str]]]:
    page, complaints = open_page(browser, write_page(tmp_path_factory.mktemp("page")))
    yield page, complaints
    page.close()


@pytest.fixture
def page(opened: tuple[Page, list[str]]) -> Iterator[Page]:
    """Yield the page as it is at first; it must have nothing to complain of."""
    page, complaints = opened
    complaints.clear()  # of the test before
    load(page, complaints)
    yield page
    assert complaints == []


def test_each_step_is_drawn(page: Page) -> None:
    num_tokens = page.evaluate("tokens.length")

    assert page.locator("#tokens button").count() == num_tokens
    assert page.locator("#parts li").count() == 6
    assert page.locator("#vector tr").count() == 1 + 6 + 1
    assert page.locator("#heads .head").count() == 2
    assert page.locator("#lens tr").count() == 2 + 6
    assert page.locator("#matrix tr").count() == 1 + num_tokens
    assert page.locator("details pre mark").count() == 9
    places = "main [id]:not(input, #scale), [data-model], [data-here], [data-answer]"
    empty = page.locator(places).evaluate_all(
        "all => all.filter((it) => !it.innerText.trim()).map((it) => it.outerHTML)"
    )
    assert empty == []


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


def test_what_is_drawn_again_keeps_the_focus(page: Page) -> None:
    """A link of the journey, a block and a head: each in another list."""
    for one in ("#parts a", "#blocks button", ".head"):
        page.locator(one).nth(1).focus()

        page.keyboard.press("ArrowLeft")

        assert page.locator(one).nth(1).evaluate("it => it === document.activeElement")


def test_a_link_to_a_step_takes_the_focus_there(page: Page) -> None:
    page.locator("nav a").nth(4).press("Enter")

    assert page.evaluate("document.activeElement.id") == "feed-step"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_a_block_and_a_head_are_chosen_and_keep_the_focus(page: Page) -> None:
    page.locator("#blocks button").nth(1).press("Enter")
    page.locator(".head").nth(1).press("Enter")

    assert page.evaluate("[here.layer, here.head]") == [1, 1]
    assert page.evaluate("document.activeElement.textContent").startswith("Head 2")
    assert page.locator("#matrix-title").inner_text().startswith("Block 2, head 2")
    assert "of block 2 fired" in page.locator("#fired").inner_text()


@torch.inference_mode()
def test_the_sliders_choose_as_the_model_does(page: Page) -> None:
    traced = trace(loaded_model(block_size=64).model, page.evaluate("tokens"))
    ids = page.evaluate("found.candidates.ids[here.place]")
    place, all_tokens = page.evaluate("[here.place, byId('top-k').max]")

    untouched = (1.0, None, 1.0)

    for settings in (
        untouched,
        (0.5, None, 1.0),
        (1.0, 3, 1.0),
        (1.0, 30, 0.3),
        (1.5, None, 0.2),
    ):
        temperature, top_k, top_p = settings
        if settings != untouched:
            page.locator("#temperature").fill(f"{temperature:g}")
            page.locator("#top-k").fill(f"{top_k or all_tokens}")
            page.locator("#top-p").fill(f"{top_p:g}")
        shown = page.evaluate("probabilities(...sliders.map(({ value }) => +value))")

        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        expected = next_token_probabilities(traced.logits, sampling)[place]
        assert np.allclose(shown[:-1], expected[ids], rtol=0.03, atol=1e-4), sampling
        assert sum(shown) == pytest.approx(1)


def test_a_weight_divided_by_their_sum_is_the_probability(page: Page) -> None:
    """The first logit weighs one; what top-p leaves out weighs nothing."""
    page.locator("#temperature").fill("0.5")
    page.locator("#top-p").fill("0.4")

    *rows, [name, *_, total, whole, _] = (
        row.split("\t") for row in page.locator("#next tbody tr").all_inner_texts()
    )

    assert (name, whole) == ("the sum", "100\u00a0%")
    kept = [row for row in rows if row[2] != "\u2013"]
    assert 1 < len(kept) < len(rows)
    logits, weights = (np.array([row[it] for row in kept], float) for it in (1, 2))
    assert np.allclose(weights, np.exp((logits - logits[0]) / 0.5), rtol=0.03)
    assert weights.sum() == pytest.approx(float(total), rel=0.01)
    for weight, row in zip(weights, kept, strict=True):
        share = float(row[3].strip("\u00a0%"))
        assert 100 * weight / float(total) == pytest.approx(share, rel=0.06)


def test_the_page_counts_what_a_top_p_keeps(page: Page) -> None:
    shares = page.evaluate("probabilities(1, Infinity, 1)")

    fewest = 1 + np.searchsorted(np.cumsum(shares), 0.5)
    kept = f"top-p = 0.5 keeps {fewest} of the {VOCAB_SIZE} tokens"
    assert kept in page.inner_text("#warmth")


def test_the_vector_is_the_sum_of_what_each_part_adds(page: Page) -> None:
    *rows, total = (
        [float(number.replace("\u2212", "-")) for number in row.split("\t")[1:]]
        for row in page.locator("#vector tbody tr").all_inner_texts()
    )

    assert np.allclose(np.sum(rows, axis=0), total, rtol=0, atol=0.04)


def test_the_matrix_and_the_coloured_text_show_the_same_shares(page: Page) -> None:
    shown = page.locator("#matrix .now").all_inner_texts()

    titles = page.locator(".head[aria-pressed=true] .text span").evaluate_all(
        "spans => spans.map(({ title }) => title).filter((title) => title)"
    )
    assert len(shown) == len(titles) == page.evaluate("here.place + 1")
    for share, title in zip(shown, titles, strict=True):
        assert abs(float(share) - float(title.strip("<>%\u00a0"))) <= 0.51


def test_a_hostile_prompt_is_shown_and_does_nothing(
    browser: Browser, tmp_path: Path
) -> None:
    page, complaints = open_page(browser, write_page(tmp_path))

    for prompt in [*HOSTILE, "z"]:
        write_page(tmp_path, prompt)
        load(page, complaints)
        assert page.locator("img, iframe, object").count() == 0, prompt
        assert str(page.text_content("#surprise")).startswith(escaped(prompt))
        assert page.locator("#tokens button").count() == page.evaluate("tokens.length")
        assert complaints == [], prompt
    page.close()


def test_what_a_hostile_page_does_is_noticed(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(
        """<script>
        alert('hello');
        if (!window.name) { window.name = 'again'; location.reload(); }
        </script><img src='x.png'>"""
    )

    page, complaints = open_page(browser, path)
    page.wait_for_function("performance.getEntries()[0].type === 'reload'")

    assert "hello" in complaints
    assert path.with_name("x.png").as_uri() in complaints
    assert path.as_uri() in complaints
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
    assert_for_everybody(browser, write_page(tmp_path, "<\u202e" + PROMPT))


def test_guesses_are_shown_beside_the_probability_of_the_token_itself(
    page: Page,
) -> None:
    """Without it they are shares of the rest, which may be next to nothing."""
    journey = page.locator("#parts .guesses").all_inner_texts()

    assert ["(itself: " in text for text in journey] == [True] * 5 + [False]


def test_the_last_step_of_top_k_keeps_all_tokens(page: Page) -> None:
    """Of a model of fewer tokens than the page lists, too."""
    most = page.evaluate("candidates.ids[0].length + 1")

    assert page.locator("#top-k").input_value() == f"{most}"
    assert page.locator("#top-k + output").inner_text() == "all"


def test_long_labels_stay_within_their_frames(browser: Browser, tmp_path: Path) -> None:
    """Of tokens in any script; tables scroll in a frame of their own."""
    path = write_page(tmp_path, "\u7684" * 3)
    text = path.read_text(encoding="utf-8")
    for label, long in (
        ("\\\\xe7", "W" * 80),
        ("\\\\x9a", "\u0645\u0631\u062d\u0628\u0627" * 9),
    ):
        assert f'"{label}"' in text
        text = text.replace(f'"{label}"', f'"{long}"')
    path.write_text(text, encoding="utf-8")
    page, complaints = open_page(browser, path)
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        load(page, complaints)

        outside = page.locator("section :not(.wide *, pre *)").evaluate_all(
            """parts => parts.map((part) => part.getBoundingClientRect().right)
              .filter((right) => right > document.documentElement.clientWidth)"""
        )
        assert outside == []
    assert complaints == []
    page.close()
