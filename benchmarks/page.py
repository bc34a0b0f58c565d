"""Write docs/performance.md from what the benchmarks found.

    python -m benchmarks.page

Each benchmark leaves a JSON file in benchmarks/results/; the sentences are here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, table
from toygpt.files import write_text

PAGE = Path("docs/performance.md")

INTRODUCTION = """\
# Performance

How fast toyGPT is, beside what one would pick instead. Every table comes from a command
that you can run yourself; `uv sync --group bench` installs what it compares with.

No machine is ever quite at rest. So the ways take turns, each in a process of its own.
A row's ratio is the median of its speed to that of the first row *in the same turn*.
Speeds depend on the machine; ratios, mostly, do not.

No GPU was at hand: all of this is two cores of a server. What it says of GPUs is
arithmetic, and says so.

This page is generated: `python -m benchmarks.page`.
"""


@dataclass(frozen=True)
class Section:
    """A question of the page.

    Attributes:
        title: Its heading.
        text: What the tables show, in Markdown.
        results: The files in benchmarks/results/, without `.json`.
    """

    title: str
    text: str
    results: tuple[str, ...]


SECTIONS: list[Section] = []


def page() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION]
    for section in SECTIONS:
        parts.append(f"## {section.title}\n\n{section.text.strip()}\n")
        parts += [show(read_result(name)) for name in section.results]
    return "\n".join(parts)


def read_result(name: str) -> dict[str, Any]:
    """Return what a benchmark found."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


def show(result: dict[str, Any]) -> str:
    """Return a result as a table with what is to be known of it."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items())
    facts = "; ".join(
        f"{name.replace('_', ' ')} {_readable(value)}"
        for name, value in result["facts"].items()
    )
    return (
        f"**{result['question']}**\n\n{table(result)}\n\n"
        f"<sub>`{result['command']}`, {result['date']}. {facts}. {machine['device']}, "
        f"{machine['cores']} cores, {machine['threads']} threads, Python "
        f"{machine['python']}, {versions}.</sub>\n"
    )


def _readable(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """Write the page."""
    write_text(PAGE, page())


if __name__ == "__main__":
    main()
