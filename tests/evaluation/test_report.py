"""The report of `evaluate`: its tables."""

import csv
import json
import re
from pathlib import Path
from typing import Any

from toygpt.evaluation.breakdown import Part
from toygpt.evaluation.calibration import Bin
from toygpt.evaluation.context import Context
from toygpt.evaluation.report import MOST_GROUPS, SHOWN, Findings, write_report

HOSTILE = "</script><img src=x onerror=alert(1)>\u202e$body"
METRICS = {
    "test_perplexity": 18.8,
    "test_bits_per_byte": 1.234567,
    "test_bits_per_byte_standard_error": 0.04,
    "test_accuracy": 0.4,
    "test_calibration_error": 0.011,
    "xz_bits_per_byte": 1.6,
    "bigram_bits_per_byte": 2.0,
}


def findings(num_documents: int = 60, **changes: Any) -> Findings:
    """Return what the report shows of a corpus with hostile names and texts."""
    documents = [
        Part(f"{HOSTILE} {n}", 300, 0.9 + n / 1000, 2.0) for n in range(num_documents)
    ]
    groups = [Part(f"group {n}", 600, 1.0 + n, 2.0) for n in range(num_documents // 2)]
    excerpt = {
        "title": "easiest",
        "text": documents[0],
        "first": 31,
        "tokens": [
            (HOSTILE, HOSTILE, 3.14159, 4.0, HOSTILE, 0.25),
            ("b", "b", 0.0, 1.0, "b", 1.0),
        ],
    }
    recited = {
        "passages": 4,
        "reproduced": 1.5,
        "error": 0.25,
        "longest": 3,
        "example": ["given ", "and ", HOSTILE, " end"],
    }
    found: dict[str, Any] = {
        "excerpts": [excerpt] * 3,
        "contexts": [Context(1, 6.8, 6.3), Context(2, 5.8, 6.3), Context(3, 5.7, 6.3)],
        "bins": [Bin(0.1, 0.12, 50), Bin(0.9, 0.87654321, 50)],
        "kinds": [
            Part("digits", 4500, 4.0, 6.0),
            Part("letters, \u2026", 13500, 3.0, 5.0),
        ],
        "documents": documents,
        "groups": groups,
        "recital": {"searched": 0.5}
        | dict.fromkeys(("train", "test", "human"), recited),
    }
    return Findings(**found | changes)


def written(directory: Path, shown: Findings) -> Path:
    """Write the report; return the path of its page."""
    write_report(directory, METRICS, shown, 2048)
    return directory / "report.html"


def test_the_tables_hold_rounded_numbers(tmp_path: Path) -> None:
    written(tmp_path, findings())

    tables = {
        path.stem: list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        for path in tmp_path.glob("*.csv")
    }

    assert tables["calibration"][1] == {
        "probability": "0.9",
        "came_true": "0.8765",
        "tokens": "50",
    }
    assert tables["kinds"][1] == {
        "kind": "letters, \u2026",
        "tokens": "13500",
        "bits": "3.0",
        "bigram_bits": "5.0",
    }
    assert tables["context"][0] == {"context": "1", "bits": "6.8", "bigram_bits": "6.3"}
    assert tables["documents"][7] == {
        "name": f"{HOSTILE} 7",
        "tokens": "300",
        "bits_per_byte": "0.907",
        "bigram_bits_per_byte": "2.0",
    }
    assert len(tables["documents"]) == 60
    assert [row["name"] for row in tables["groups"]][:2] == ["group 29", "group 28"]


def test_the_page_shows_both_ends_of_a_ranking(tmp_path: Path) -> None:
    """Each text once, where there are few."""
    for num_documents in (60, SHOWN + 1):
        page = written(tmp_path, findings(num_documents)).read_text(encoding="utf-8")
        data = re.search('id="findings">(.*?)</script>', page)
        assert data
        documents = json.loads(data[1])["documents"]
        numbers = [int(name.split()[-1]) for name, *_ in documents["rows"]]
        hardest_first = list(range(num_documents))[::-1]
        assert documents["number"] == num_documents
        if num_documents == 60:
            hardest_first[SHOWN:-SHOWN] = []
        assert numbers == hardest_first
        assert json.loads(data[1])["metrics"]["test_bits_per_byte"] == 1.2346


def test_the_table_of_groups_holds_the_hardest(tmp_path: Path) -> None:
    written(tmp_path, findings(100))

    groups = (tmp_path / "groups.csv").read_text(encoding="utf-8").splitlines()[1:]

    assert [line.partition(",")[0] for line in groups] == [
        f"group {number}" for number in range(49, 49 - MOST_GROUPS, -1)
    ]
