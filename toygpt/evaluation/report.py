"""The report of `evaluate`: a page for a person, and tables for `dvc plots show`."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from toygpt.evaluation.breakdown import Text, groups_of, ranked
from toygpt.evaluation.calibration import Bin
from toygpt.evaluation.context import Context
from toygpt.pages.html import to_html
from toygpt.pipeline.files import write_text

CONTENT = Path(__file__).with_name("report.html")
OF_TEXTS = ("tokens", "bits_per_byte", "bigram_bits_per_byte")
# Groups in the table, the hardest: as many as a plot of bars can show.
MOST_GROUPS = 40
# Documents and groups on the page, at either end.
SHOWN = 8


class Findings(NamedTuple):
    """What the report shows, each part the answer to a question."""

    excerpts: list[dict[str, Any]]
    contexts: list[Context]
    bins: list[Bin]
    kinds: list[Text]
    documents: list[Text]
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
    documents, groups = findings.documents, ranked(groups_of(findings.documents))
    num_tokens = sum(text.tokens for text in documents)
    kinds = [
        (name, bits / tokens, bigram_bits / tokens, tokens / num_tokens)
        for name, _, tokens, _, bits, bigram_bits in findings.kinds
    ]
    tables = {
        "context": [Context._fields, *findings.contexts],
        "calibration": [Bin._fields, *findings.bins],
        "kinds": [("kind", "bits", "bigram_bits", "share"), *kinds],
        "groups": [("group", *OF_TEXTS), *map(_row, groups[:MOST_GROUPS])],
        "documents": [
            ("document", "group", *OF_TEXTS),
            *((text.name, text.group, *_row(text)[1:]) for text in documents),
        ],
    }
    for name, rows in tables.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rounded(rows))
        write_text(directory / f"{name}.csv", text.getvalue())
    shown = findings._asdict() | {
        "metrics": metrics,
        "kinds": kinds,
        "documents": _ends_of(ranked(documents)),
        "groups": _ends_of(groups),
        "tokens": num_tokens,
        "even": math.log2(vocab_size),
    }
    write_text(directory / "report.html", to_html(CONTENT, rounded(shown)))


def _row(text: Text) -> tuple[str, int, float, float]:
    """Return name, tokens, and bits per byte of the model and of the bigram model."""
    bigram = text.bigram_bits / max(1, text.bytes)
    return text.name, text.tokens, text.bits_per_byte, bigram


def _ends_of(texts: Sequence[Text]) -> dict[str, Any]:
    """Return the hardest and the easiest of ranked texts, and how many there are."""
    rows = list(map(_row, texts))
    last = rows[max(SHOWN, len(rows) - SHOWN) :]
    return {"number": len(rows), "hardest": rows[:SHOWN], "easiest": last}


def rounded(value: Any) -> Any:
    """Return plain values with four digits behind the point."""
    return json.loads(
        json.dumps(value), parse_float=lambda number: round(float(number), 4)
    )
