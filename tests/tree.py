"""The tree in README.md: the files of toygpt/ and stages/, each with its summary.

python -m tests.tree          # renews the tree
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.project import PROJECT
from toygpt.pipeline.files import write_text

README = PROJECT / "README.md"
TREE = re.compile(r"(?<=<!-- tree -->\n```\n).*?(?=```\n<!-- end -->)", re.DOTALL)
# From text to sample, then what surrounds it.
ROOMS = ["data", "model", "generation", "explaining", "training", "evaluation"]
ROOMS += ["pages", "resuming", "tracking", "reporting", "sharing", "pipeline"]
ROOMS += ["doctor", "cli"]
STAGES = ["download", "tokenize", "split", "train", "evaluate", "generate_samples"]


def tree() -> str:
    """Return the tree, one line a file."""
    rows = [("toygpt/", "")]
    for room in in_order(PROJECT / "toygpt", ROOMS):
        rows += rows_of(room, "  ")
    rows.append(("stages/", summary_of(PROJECT / "stages/__init__.py")))
    stages = in_order(PROJECT / "stages", [f"{name}.py" for name in STAGES])
    rows += [(f"  {path.name}", summary_of(path)) for path in stages]
    width = max(len(name) for name, _ in rows) + 2
    return "".join(f"{name:{width}}{text}".rstrip() + "\n" for name, text in rows)


def rows_of(folder: Path, indent: str) -> Iterator[tuple[str, str]]:
    """Yield the rows of a folder, its own modules first."""
    yield f"{indent}{folder.name}/", summary_of(folder / "__init__.py")
    for path in modules_of(folder):
        yield f"{indent}  {path.name}", summary_of(path)
    for path in sorted(folder.glob("*/__init__.py")):
        yield from rows_of(path.parent, f"{indent}  ")


def in_order(folder: Path, names: list[str]) -> Iterator[Path]:
    """Yield the entries of a folder, those that are named first."""
    entries = sorted(path.name for path in folder.glob("[a-z]*"))
    first = [name for name in names if name in entries]
    for name in [*first, *(name for name in entries if name not in names)]:
        yield folder / name


def modules_of(room: Path) -> list[Path]:
    return sorted(room.glob("[a-z]*.py"))


def summary_of(path: Path) -> str:
    """Return the first paragraph of a module's docstring, in one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{path} has no docstring"
    return " ".join(docstring.split("\n\n")[0].split()).removesuffix(".")


def reading_order() -> list[Path]:
    """Return the files that README names above the line for professionals."""
    section = README.read_text(encoding="utf-8").split("## Read the code")[1]
    links = re.findall(r"\]\((toygpt/\S+\.py)\)", section.split("For professionals")[0])
    return [Path(link) for link in links]


def main() -> None:
    """Renew the tree."""
    text = README.read_text(encoding="utf-8")
    write_text(README, TREE.sub(lambda _: tree(), text))


if __name__ == "__main__":
    main()
