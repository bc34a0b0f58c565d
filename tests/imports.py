"""Which of our own modules a script runs, found by reading its imports."""

import ast
from pathlib import Path

PACKAGES = ("stages", "toygpt")


def imported_modules(script: Path, *, root: Path) -> set[Path]:
    """Return the files of this project that running `script` imports.

    Imports inside functions count; those for type checkers alone do not. Importing
    `a.b.c` runs `a/__init__.py` and `a/b/__init__.py` as well.
    """
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        for name in names_imported(root / waiting.pop()):
            for file in _files_of(name, root):
                if file not in found:
                    found.add(file)
                    waiting.append(file)
    return found


def names_imported(path: Path) -> set[str]:
    """Return the modules of this project that a file names in its imports."""
    names: set[str] = set()
    for node in _running_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.split(".")[0] in PACKAGES}


def _running_nodes(node: ast.AST) -> list[ast.AST]:
    """Return all nodes but those under `if TYPE_CHECKING`."""
    nodes = [node]
    for child in ast.iter_child_nodes(node):
        if not (
            isinstance(child, ast.If)
            and isinstance(child.test, ast.Name)
            and child.test.id == "TYPE_CHECKING"
        ):
            nodes += _running_nodes(child)
    return nodes


def _files_of(name: str, root: Path) -> set[Path]:
    parts = name.split(".")
    packages = [
        Path(*parts[:length], "__init__.py") for length in range(1, len(parts) + 1)
    ]
    candidates = [*packages, Path(*parts).with_suffix(".py")]
    return {path for path in candidates if (root / path).is_file()}
