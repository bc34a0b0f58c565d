"""The report of `evaluate`: a page for a person, and tables for `dvc plots show`."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from toygpt.evaluation.breakdown import Part, ranked
from toygpt.evaluation.calibration import Bin
from toygpt.evaluation.context import Context
from toygpt.pages.html import to_html
from toygpt.pipeline.files import write_text

CONTENT = Path(__file__).with_name("report.html")
OF_TEXTS = ("name", "tokens", "bits_per_byte", "bigram_bits_per_byte")
# Groups in the table, the hardest: as many as a plot of bars can show.
MOST_GROUPS = 40
# Documents and groups on the page, at either end.
SHOWN = 8


class Findings(NamedTuple):
    """What the report shows, each part the answer to a question."""

    excerpts: list[dict[str, Any]]
    contexts: list[Context]
    bins: list[Bin]
    kinds: list[Part]
    documents: list[Part]
    groups: list[Part]
    recital: dict[str, Any]


def write_report(
    directory: Path, metrics: Mapping[str, float], findings: Findings, vocab_size: int
) -> None:
    """Write report.html, and the tables beside it.

    All numbers are rounded: their last digits depend on the machine.

    Args:
        directory: Where to.
        metrics: The results of `evaluate`.
        findings: What the report shows besides.
        vocab_size: Tokens that a model without any knowledge would choose from.
    """
    groups = ranked(findings.groups)
    tables = {
        "context": [Context._fields, *findings.contexts],
        "calibration": [Bin._fields, *findings.bins],
        "kinds": [("kind", "tokens", "bits", "bigram_bits"), *findings.kinds],
        "groups": [OF_TEXTS, *groups[:MOST_GROUPS]],
        "documents": [OF_TEXTS, *findings.documents],
    }
    for name, rows in tables.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rounded(rows))
        write_text(directory / f"{name}.csv", text.getvalue())
    shown = findings._asdict() | {
        "metrics": metrics,
        "documents": _ends_of(ranked(findings.documents)),
        "groups": _ends_of(groups),
        "vocabSize": vocab_size,
    }
    write_text(directory / "report.html", to_html(CONTENT, rounded(shown)))


def _ends_of(texts: Sequence[Part]) -> dict[str, Any]:
    """Return the hardest and the easiest of ranked texts, and how many there are."""
    easiest = texts[max(SHOWN, len(texts) - SHOWN) :]
    return {"number": len(texts), "rows": [*texts[:SHOWN], *easiest]}


def rounded(value: Any) -> Any:
    """Return plain values with four digits behind the point."""
    return json.loads(json.dumps(value), parse_float=lambda it: round(float(it), 4))
