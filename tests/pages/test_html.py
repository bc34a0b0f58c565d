"""A page holds its findings as data, runs its own script alone, and loads nothing."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.project import PROJECT
from toygpt.pages.html import to_html

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--",
    "\u2028",
    "\0",
    "$body",
    "\u202e",
]
# Every page of the project: a template that has a script beside it.
CONTENTS = [
    path
    for path in sorted((PROJECT / "toygpt").rglob("*.html"))
    if path.with_suffix(".js").is_file() and path.name != "page.html"
]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the content of a page that says nothing."""
    folder = tmp_path_factory.mktemp("template")
    for suffix, text in {
        ".css": "p {}",
        ".js": "found;",
        ".html": "<h1>A</h1>",
    }.items():
        (folder / f"plain{suffix}").write_text(text, encoding="utf-8")
    return folder / "plain.html"


def findings_in(page: str) -> Any:
    """Return the findings that a page holds."""
    [data] = re.findall('<script type="application/json".*?>(.*?)</script>', page, re.S)
    return json.loads(data)


@given(st.one_of(st.text(), st.lists(st.sampled_from(HOSTILE)).map("".join)))
def test_any_text_comes_back_out_of_the_page(content: Path, text: str) -> None:
    page = to_html(content, {"text": text})

    assert findings_in(page) == {"text": text}
    assert page.count("<script") == page.count("</script>") == 2


def test_the_policy_names_the_very_style_and_script(content: Path) -> None:
    page = to_html(content, {})

    for tag in ("style", "script"):
        [text] = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_know_is_refused(
    content: Path, value: float
) -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_html(content, {"loss": value})


def test_no_template_makes_markup_of_text_or_loads_anything() -> None:
    folders = {path.parent for path in CONTENTS} | {PROJECT / "toygpt/pages"}
    texts = [
        path.read_text(encoding="utf-8")
        for folder in folders
        for path in folder.iterdir()
        if path.suffix in (".css", ".html", ".js")
    ]

    assert len(texts) >= 3
    for text in texts:
        assert not re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b"
            r"|localStorage|sessionStorage|fetch\(|@import|url\(",
            text,
        )
        # The name of SVG in its own elements is not an address to load from.
        assert set(re.findall(r'(?<!href=)"http[^"]*"', text)) <= {
            '"http://www.w3.org/2000/svg"'
        }
