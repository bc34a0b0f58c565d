"""The pages stay small: no framework draws them, and a newcomer reads all of it."""

import ast
import io
import tokenize

from tests.project import PROJECT

CODE = PROJECT / "toygpt"
# For both pages and what they share: lines of Python, and of templates.
MOST_CODE, MOST_TEMPLATES = 700, 900
ROOMS = ("pages", "explaining", "evaluation")
# Python of a page that is elsewhere, and what makes no page.
ELSEWHERE = ("cli/explain.py", "data/heldout_names.py")
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


def test_python_that_makes_pages_stays_small() -> None:
    files = [CODE / name for name in ELSEWHERE]
    files += [path for room in ROOMS for path in (CODE / room).glob("*.py")]

    sizes = {
        str(path.relative_to(CODE)): lines_of_code(path.read_text("utf-8"))
        for path in files
        if path.name not in NO_PAGE
    }

    assert 0 < sum(sizes.values()) <= MOST_CODE, sizes


def test_templates_stay_small_and_readable() -> None:
    lines = [
        (path.name, number, line)
        for room in ROOMS
        for suffix in ("html", "css", "js")
        for path in sorted((CODE / room).glob(f"*.{suffix}"))
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
    ]

    assert 0 < len(lines) <= MOST_TEMPLATES
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
