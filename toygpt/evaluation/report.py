"""The report of `evaluate`: a page for a person, and tables that `dvc plots` draws."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toygpt.evaluation.breakdown import Kind, Text, groups_of, ranked
from toygpt.evaluation.calibration import Bin
from toygpt.evaluation.context import Context
from toygpt.evaluation.findings import Findings
from toygpt.pages.html import to_html
from toygpt.pipeline.files import write_text

CONTENT = Path(__file__).with_name("report.html")
OF_TEXTS = ("tokens", "bits_per_byte", "bigram_bits_per_byte")
# Groups in the table: as many as a plot of bars can show.
HARDEST, EASIEST = 30, 10
# Documents and groups on the page.
SHOWN = 8


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
    documents = findings.documents
    groups = ranked(groups_of(documents))
    some = groups[:HARDEST] + groups[max(HARDEST, len(groups) - EASIEST) :]
    tables = {
        "context": [Context._fields, *findings.contexts],
        "calibration": [Bin._fields, *findings.bins],
        "kinds": [Kind._fields, *findings.kinds],
        "groups": [("group", *OF_TEXTS), *(group.row for group in some)],
        "documents": [
            ("document", "group", *OF_TEXTS),
            *((text.name, text.group, *text.row[1:]) for text in documents),
        ],
    }
    for name, rows in tables.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rounded(rows))
        write_text(directory / f"{name}.csv", text.getvalue())
    shown = findings._asdict() | {
        "metrics": metrics,
        "documents": _ends_of(ranked(documents)),
        "groups": _ends_of(groups),
        "tokens": sum(text.tokens for text in documents),
        "even": math.log2(vocab_size),
    }
    write_text(directory / "report.html", to_html(CONTENT, rounded(shown)))


def _ends_of(texts: Sequence[Text]) -> dict[str, Any]:
    """Return the hardest and the easiest of ranked texts, and how many there are."""
    rows = [text.row for text in texts]
    last = rows[max(SHOWN, len(rows) - SHOWN) :]
    return {"number": len(rows), "hardest": rows[:SHOWN], "easiest": last}


def rounded(value: Any) -> Any:
    """Return plain values with four digits behind the point."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return value
