"""The prose and the names use the field's words, and the reading path simple Python."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import PROJECT, project_files
from tests.tree import reading_order

SUFFIXES = ("*.py", "*.md", "*.yaml", "*.sh", "*.toml", "*.html", "*.css", "*.js")
COMPARED = "one|more|less|[a-z]+er(?![a-z])"  # as in "is no longer"

# What was written before, as a pattern, and what to write instead. A space also matches
# an underscore or the end of a line.
INSTEAD = {
    r"portions?": "micro-batch, or part",
    r"judge[sd]?|judging|judgements?": "evaluate, evaluation",
    r"tell|tells|telling|told|untold": "log, sync, say, show; synced, unsynced",
    r"news|couriers?": "updates; sync worker",
    r"mend|mends|mended|mending": "fix",
    r"remedy|remedies": "suggested command",
    r"facts|surroundings": "metadata, tags; environment",
    r"(go|goes|going|went|gone) on": "continue, resume",
    r"anew": "again",
    r"whoever|whichever|whatever": "the process, the caller, any",
    r"somebody|nobody": "the process, the caller, the user, no one",
    r"likeliest": "most likely; greedy",
    r"by chance": "sampled; at random",
    r"takes? up|taken up|took up": "resume, acquire",
    r"first process": "rank zero",
    r"length of the gradients?": "gradient norm",
    r"line feeds?": "newline",
    r"(?<!there[\x20_])(is|are) none": "is NaN, is None",
    rf"(?<!there[\x20_])(is|are|was|were) no (?!{COMPARED})[a-z]+": "is not a …",
    r'"""(say|let|have)': "Return …, Return whether …, a plain verb",
}
# Keys in the file run.json, and the files that may name them.
KEYS = ("facts", "told")
MAY_NAME_KEYS = {
    "docs/decisions/tracking.md",
    "tests/pipeline/test_json_file.py",
    "tests/resuming/test_pipeline_resume.py",
    "tests/tracking/test_record.py",
    "toygpt/pipeline/json_file.py",
    "toygpt/tracking/run_info.py",
}

SPACE = r"(?:[\s_]|\n\s*#\s)+"
PATTERNS = {
    re.compile(
        rf"(?<![A-Za-z])(?:{words.replace(' ', SPACE)})(?![A-Za-z])", re.IGNORECASE
    ): advice
    for words, advice in INSTEAD.items()
}


def replaced_words(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line of each replaced word, the word, and what to write instead."""
    for pattern, advice in PATTERNS.items():
        for found in pattern.finditer(text):
            words = " ".join(found[0].split())
            # Python's `is None` is another matter.
            if words.split()[-1] != "None":
                yield text.count("\n", 0, found.start()) + 1, words, advice


def test_no_file_says_a_word_that_was_replaced() -> None:
    complaints = [
        f"{name}:{line}: {words!r}: write {advice}"
        for path in project_files(*SUFFIXES)
        if (name := path.relative_to(PROJECT).as_posix()) != "tests/test_words.py"
        for line, words, advice in replaced_words(path.read_text(encoding="utf-8"))
        if not (words in KEYS and name in MAY_NAME_KEYS)
    ]

    if complaints:
        pytest.fail("\n".join([f"{len(complaints)} replaced words:", *complaints]))


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("Say what it was told.", True),
        ("def test_a_tracker_is_told() -> None:", True),
        ("class Judgement:", True),
        ("# decided by the first\n    # process", True),
        ("a file that is no text", True),
        ("weights that are none", True),
        ('def is_here() -> bool:\n    """Say whether it is here."""', True),
        ("if it is None:", False),
        ("there is no room", False),
        ("it is no longer", False),
        ("intelligible", False),
    ],
)
def test_a_replaced_word_is_found_and_others_are_left_alone(
    text: str, is_found: bool
) -> None:
    assert any(replaced_words(text)) == is_found


@pytest.mark.parametrize("path", reading_order(), ids=str)
def test_the_reading_path_needs_no_type_checking_tricks(path: Path) -> None:
    """A newcomer to Python meets real imports and real annotations alone."""
    text = (PROJECT / path).read_text(encoding="utf-8")

    assert "TYPE_CHECKING" not in text
    assert "from __future__ import annotations" not in text
