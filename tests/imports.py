"""The imports of a file, read from its source."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.project import PROJECT

PACKAGES = ("stages", "toygpt")


def imported_modules(script: Path, *, at_start: bool = False) -> set[Path]:
    """Return the files of this project that running one of them imports.

    Imports for type checkers alone do not count, nor, `at_start`, those in functions.
    Importing `a.b.c` runs `a/__init__.py` and `a/b/__init__.py` as well.
    """
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        for name in imports_of(PROJECT / waiting.pop(), at_start=at_start):
            files = _files_of(name) - found
            found |= files
            waiting += files
    return found


def imports_of(path: Path, *, at_start: bool = False) -> set[str]:
    """Return the modules of this project that a file names in its imports."""
    names = _names_imported(path, at_start=at_start)
    return {name for name in names if name.split(".")[0] in PACKAGES}


def packages_of(path: Path, *, at_start: bool = False) -> set[str]:
    """Return the packages that a file imports."""
    names = _names_imported(path, at_start=at_start)
    return {name.split(".")[0] for name in names}


@cache
def _names_imported(path: Path, *, at_start: bool) -> set[str]:
    names: set[str] = set()
    for node in _running_nodes(ast.parse(path.read_text(encoding="utf-8")), at_start):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module)):
                names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def _running_nodes(node: ast.AST, at_start: bool) -> Iterator[ast.AST]:
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return
        case ast.FunctionDef() | ast.AsyncFunctionDef() if at_start:
            return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _running_nodes(child, at_start)


def _files_of(name: str) -> set[Path]:
    module = Path(*name.split("."))
    packages = [folder / "__init__.py" for folder in (module, *module.parents)]
    candidates = [module.with_suffix(".py"), *packages]
    return {path for path in candidates if (PROJECT / path).is_file()}
