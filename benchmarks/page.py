"""Put the newest tables into docs/performance.md and docs/scale.md.

    python -m benchmarks.page

Each benchmark leaves a JSON file in benchmarks/results/. On a page, its table stands
between `<!-- NAME -->` and `<!-- end -->`, NAME being that of its file. `gpu-*` stands
for the files of all GPUs that were measured (`python -m benchmarks.gpu`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, table
from toygpt.pipeline.files import write_text

PAGES = [Path("docs/performance.md"), Path("docs/scale.md")]
NOT_MEASURED = "None was measured with this code yet."
TABLE = re.compile(r"<!-- (\S+) -->\n.*?<!-- end -->", re.DOTALL)


def with_tables(page: str) -> str:
    """Return the page with each of its tables as the benchmark left it."""

    def show_all(found: re.Match[str]) -> str:
        files = sorted(RESULTS.glob(f"{found[1]}.json"))
        tables = "\n".join(map(show, files)) or f"{NOT_MEASURED}\n"
        return f"<!-- {found[1]} -->\n{tables}\n<!-- end -->"

    return TABLE.sub(show_all, page)


def show(path: Path) -> str:
    """Return a file's result, or the results of all parts of a GPU's benchmark."""
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "parts" not in result:
        return show_result(result)
    texts = []
    for name, part in result["parts"].items():
        if part["outcome"] != "done":
            texts.append(f"*The part `{name}`: {part['outcome']}.*\n")
        texts += map(show_result, part["tables"])
    return "\n".join(texts)


def show_result(result: Mapping[str, Any]) -> str:
    """Return a result as a table, with its settings, machine and versions."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items())
    settings = ", ".join(
        f"{name.replace('_', ' ')}: {_readable(value)}"
        for name, value in result["settings"].items()
    )
    return (
        f"**{result['question']}**\n\n{table(result)}\n\n"
        f"<sub>`{result['command']}`, {result['date']}. {settings}. "
        f"On {machine['device']}, {machine['cores']} cores, "
        f"{machine['threads']} threads; Python "
        f"{machine['python']}, {versions}.</sub>\n"
    )


def _readable(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """Renew the tables of all pages."""
    for page in PAGES:
        write_text(page, with_tables(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
