"""The report in a browser: it draws, follows keys, and runs nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evaluation.test_report import findings, written
from tests.pages.browser import (
    Browser,
    assert_for_everybody,
    chromium,
    open_page,
)
from toygpt.evaluation.calibration import Bin
from toygpt.evaluation.report import SHOWN

pytestmark = pytest.mark.slow
BARS = [".bar", ".mark"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_the_page_draws_and_hostile_text_stays_text(
    browser: Browser, tmp_path: Path
) -> None:
    page, complaints = open_page(browser, written(tmp_path, findings()))

    assert complaints == []
    assert "1.23 ± 0.04 bits for a byte" in page.inner_text(".lead")
    for elements, number in (
        ("section h2", 5),
        ("svg", 2),
        ("#context .dot", 3),
        ("#calibration .dot", 2),
        ("#hard table", 3),
        ("#hard .track", 2 + 16 + 16),
        ("#spans mark", 3),
        ("img", 0),
    ):
        assert page.locator(elements).count() == number, elements
    assert "</script><img" in page.inner_text("#spans mark >> nth=0")
    assert "50\u00a0% of it was searched" in page.inner_text("section >> nth=4")
    rows = page.locator("#recital tbody tr").all_inner_texts()
    assert rows[0].split("\t")[1:] == ["4", "1.5 ± 0.3", "3"]
    assert rows[2].split("\t")[1:] == ["4", "", "3"]
    assert "25\u00a0%" in page.inner_text("#hard tbody tr >> nth=0")
    bars = [page.get_attribute(f"#hard {it} >> nth=1", "style") for it in BARS]
    assert bars == ["width: 50%;", "left: 83.3333%;"]
    headings = page.locator("#hard h3").all_text_contents()
    assert headings[1:] == [
        "the 8 hardest and the 8 easiest of 30 groups: bits per byte",
        "the 8 hardest and the 8 easiest of 60 documents: bits per byte",
    ]


def test_keys_move_through_an_excerpt_and_buttons_change_the_colours(
    browser: Browser, tmp_path: Path
) -> None:
    page, complaints = open_page(browser, written(tmp_path, findings()))

    page.locator(".detail, .excerpt span").evaluate_all(
        "all => all.forEach((it) => { it.lang = 'x'; })"
    )
    page.focus("#excerpt-1")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".detail >> nth=1").startswith("b 0.00 bits")
    assert page.inner_text(".detail >> nth=0").startswith("</script>")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert "3.14 bits" in page.inner_text(".detail >> nth=1")

    assert "--odd-fill" in str(page.get_attribute(".excerpt span", "style"))
    page.focus("#gain")
    page.keyboard.press("Enter")
    pressed = [page.get_attribute(f"#{it}", "aria-pressed") for it in ("model", "gain")]
    assert pressed == ["false", "true"]
    assert page.evaluate("document.activeElement.id") == "gain"
    assert "--guess-fill" in str(page.get_attribute(".excerpt span", "style"))
    assert page.locator(".excerpt [lang=x]").count() == 6, "drawn again"
    assert page.locator(".detail[lang=x]").count() == 3, "drawn again"
    assert complaints == []


def test_the_page_of_a_single_short_document_draws(
    browser: Browser, tmp_path: Path
) -> None:
    excerpts = findings().excerpts[:1]
    shown = findings(
        1, excerpts=excerpts, bins=[Bin(0.0, 0.01, 9)], recital={"searched": 1.0}
    )

    page, complaints = open_page(browser, written(tmp_path, shown))

    assert complaints == []
    assert page.locator("#hard h3").last.inner_text() == "Documents: bits per byte"
    assert "No passage is long enough" in page.inner_text("#recital")


def test_the_page_is_for_everybody(browser: Browser, tmp_path: Path) -> None:
    assert_for_everybody(browser, written(tmp_path, findings(2 * SHOWN + 1)))
