"""The imports of a file, read from its source."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("stages", "toygpt")


def imported_modules(script: Path, *, root: Path, at_start: bool = False) -> set[Path]:
    """Return the files of this project that running `script` imports.

    Imports for type checkers alone do not count. Importing `a.b.c` runs
    `a/__init__.py` and `a/b/__init__.py` as well.

    Args:
        script: The file, below `root`.
        root: The folder of the packages.
        at_start: Whether imports inside functions are left out.
    """
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        for name in imports_of(root / waiting.pop(), at_start=at_start):
            for file in _files_of(name, root):
                if file not in found:
                    found.add(file)
                    waiting.append(file)
    return found


def imports_of(path: Path, *, at_start: bool = False) -> set[str]:
    """Return the modules of this project that a file names in its imports."""
    names = _names_imported(path, at_start=at_start)
    return {name for name in names if name.split(".")[0] in PACKAGES}


def packages_of(path: Path, *, at_start: bool = False) -> set[str]:
    """Return the packages that a file imports."""
    names = _names_imported(path, at_start=at_start)
    return {name.split(".")[0] for name in names}


def _names_imported(path: Path, *, at_start: bool) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _running_nodes(tree, at_start=at_start):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _running_nodes(node: ast.AST, *, at_start: bool) -> Iterator[ast.AST]:
    """Yield all nodes but those under `if TYPE_CHECKING`, and in functions at will."""
    yield node
    for child in ast.iter_child_nodes(node):
        is_for_checkers = (
            isinstance(child, ast.If)
            and isinstance(child.test, ast.Name)
            and child.test.id == "TYPE_CHECKING"
        )
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        if not is_for_checkers and not (at_start and is_function):
            yield from _running_nodes(child, at_start=at_start)


def _files_of(name: str, root: Path) -> set[Path]:
    parts = name.split(".")
    packages = [
        Path(*parts[:length], "__init__.py") for length in range(1, len(parts) + 1)
    ]
    candidates = [*packages, Path(*parts).with_suffix(".py")]
    return {path for path in candidates if (root / path).is_file()}
