"""Pages in a real browser: Chromium as Debian packages it, and axe-core in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.project import PATIENCE_SECONDS

PATIENCE = 1000 * PATIENCE_SECONDS  # in Playwright's milliseconds
# Debian's name of the browser, and Google's.
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Of types of Playwright, which is imported once it is needed: `Browser` and `Page`.
Browser = Any
Page = Any
# How people look at a page: at a desk, and on a telephone in the evening.
LOOKS = [("light", 1280), ("dark", 390)]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser without a window; skip the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium: `apt-get install chromium`")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, timeout=PATIENCE)
        yield browser
        browser.close()


def open_page(browser: Browser, path: Path, **settings: Any) -> tuple[Page, list[str]]:
    """Return a page that was opened from disk, and a growing list of complaints.

    They are messages of the console, errors, dialogs and requests, but for those of
    `load`.
    """
    page = browser.new_page(reduced_motion="reduce", **settings)
    page.set_default_timeout(PATIENCE)
    complaints: list[str] = []

    def dismiss(dialog: Any) -> None:
        complaints.append(dialog.message)
        dialog.dismiss()

    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", dismiss)
    page.on("request", lambda request: complaints.append(request.url))
    load(page, complaints, path.as_uri())
    return page, complaints


def load(page: Page, complaints: list[str], address: str | None = None) -> None:
    """Load a page, by default the same again: it is as new, and a tenth of the work."""
    address = address or page.url.partition("#")[0]
    page.goto(address)
    complaints.remove(address)  # once: a page that loads itself adds another


def assert_for_everybody(browser: Browser, path: Path) -> None:
    """Check with axe-core, light and dark, wide and narrow; nothing sticks out."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page, complaints = open_page(browser, path)
    for scheme, width in LOOKS:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        load(page, complaints)
        found = axe.run(page).response["violations"]
        assert not found, (scheme, width, [(f["id"], f["nodes"]) for f in found])
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert complaints == []
    page.close()
