"""The pages stay small: no framework draws them, and a newcomer reads all of it."""

import ast
import io
import tokenize

import pytest

from tests.project import PROJECT

CODE = PROJECT / "toygpt"
# Lines of code, then of templates: 700 and 900 for both pages and what they share.
LIMITS = {"pages": (55, 165), "explaining": (305, 540), "evaluation": (340, 195)}
# Python of a page that is elsewhere, and of its room what makes no page.
ELSEWHERE = {"explaining": ["cli/explain.py"], "evaluation": ["data/heldout_names.py"]}
NO_PAGE = {"baselines.py", "test_loss.py"}
NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def lines_of_code(source: str) -> int:
    """Return how many lines are neither empty nor a comment or docstring."""
    docstrings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in NOT_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(lines - docstrings)


def test_the_limits_are_those_of_both_pages_together() -> None:
    python, templates = zip(*LIMITS.values(), strict=True)

    assert (sum(python), sum(templates)) == (700, 900)


@pytest.mark.parametrize("room", LIMITS)
def test_python_that_makes_pages_stays_small(room: str) -> None:
    files = [CODE / name for name in ELSEWHERE.get(room, [])]
    files += [path for path in (CODE / room).glob("*.py") if path.name not in NO_PAGE]

    sizes = {path.name: lines_of_code(path.read_text("utf-8")) for path in files}

    assert 0 < sum(sizes.values()) <= LIMITS[room][0], sizes


@pytest.mark.parametrize("room", LIMITS)
def test_templates_stay_small_and_readable(room: str) -> None:
    lines = [
        (path.name, number, line)
        for suffix in ("html", "css", "js")
        for path in sorted((CODE / room).glob(f"*.{suffix}"))
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
    ]

    assert 0 < len(lines) <= LIMITS[room][1]
    assert not [(name, number) for name, number, line in lines if len(line) > 100]


def test_a_line_of_code_is_counted_once() -> None:
    source = '''"""A docstring
of two lines."""

# A comment.
def double(x: int) -> int:
    """Return it."""
    return (
        x + x  # twice
    )
'''
    assert lines_of_code(source) == 4
