"""Put the newest tables into docs/performance.md.

    python -m benchmarks.page

Each benchmark leaves a JSON file in benchmarks/results/. On the page, a table stands
between `<!-- NAME -->` and `<!-- end -->`, NAME being that of its file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, table
from toygpt.pipeline.files import write_text

PAGE = Path("docs/performance.md")
TABLE = re.compile(r"<!-- (\S+) -->\n.*?<!-- end -->", re.DOTALL)


def with_tables(page: str) -> str:
    """Return the page with each of its tables as the benchmark left it."""
    return TABLE.sub(
        lambda found: f"<!-- {found[1]} -->\n{show(found[1])}\n<!-- end -->", page
    )


def show(name: str) -> str:
    """Return a result as a table, with its settings, machine and versions."""
    result: dict[str, Any] = json.loads(
        (RESULTS / f"{name}.json").read_text(encoding="utf-8")
    )
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
    """Renew the tables of the page."""
    write_text(PAGE, with_tables(PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
