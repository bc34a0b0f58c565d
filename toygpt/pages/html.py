"""Put findings into a page: one file that loads nothing, and runs its own script alone.

A page is a folder's `NAME.html` (the content of its body), `NAME.css` and `NAME.js`.
Before them come page.css and page.js, which all pages share.
"""

import base64
import hashlib
import json
import re
from pathlib import Path
from string import Template

SHARED = Path(__file__).with_name("page.html")


def to_html(content: Path, findings: object) -> str:
    """Return the page of a `NAME.html`, its style, its script and what it shows.

    Findings may come from any text, and are never part of the markup: they are JSON in
    a script that is data, with `<` as an escape, so that none can end it. The scripts
    make text of them, never HTML. And the page's policy lets only its own style and
    script work, by their digests, and lets nothing be fetched.

    Args:
        content: The file NAME.html.
        findings: What the script finds as `found`: plain values, none NaN or infinite.
    """
    body = content.read_text(encoding="utf-8")
    title = re.search("<h1>(.*?)</h1>", body, re.DOTALL)
    files = (SHARED, content)
    style, script = (
        "".join(file.with_suffix(suffix).read_text(encoding="utf-8") for file in files)
        for suffix in (".css", ".js")
    )
    data = json.dumps(findings, separators=(",", ":"), allow_nan=False)
    # One substitution: a `$` in what is put in stays as it is.
    return Template(SHARED.read_text(encoding="utf-8")).substitute(
        title=title[1] if title else content.stem,
        style=style,
        style_digest=_digest(style),
        body=body,
        findings=data.replace("<", r"\u003c"),
        script=script,
        script_digest=_digest(script),
    )


def _digest(text: str) -> str:
    """Return the digest of a text as a content security policy names it."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
