"""The inventory of a corpus: what was read, what was left out, and why."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from enum import Enum
from typing import Any

# How many names, and how many kinds of files, one line shows.
NUM_SHOWN = 3


class Reason(Enum):
    """Why a file or a row is not in the corpus.

    A value is the reason's key in the metrics, its name on the console, and the advice
    to the user, if there is any.
    """

    EMPTY = ("empty", "empty", None)
    DUPLICATE = ("duplicate", "duplicate", None)
    HIDDEN = ("hidden", "hidden", None)
    NOT_UTF8 = (
        "not_utf8",
        "not UTF-8",
        "from Latin-1, for example: iconv -f latin1 -t utf-8 FILE > NEW_FILE",
    )
    UNMARKED_UTF16 = (
        "unmarked_utf16",
        "UTF-16 without a byte order mark",
        "convert: iconv -f utf-16le -t utf-8 FILE > NEW_FILE",
    )
    BINARY = (
        "binary",
        "binary",
        "if it is text with NUL characters: tr -d '\\000' < FILE > NEW_FILE",
    )
    NO_READER = (
        "no_reader",
        "in a format that is not read",
        "convert: pandoc --to plain --output NEW_FILE.txt FILE, or for PDF: "
        "pdftotext FILE",
    )
    NO_TEXT_COLUMN = (
        "no_text_column",
        "without text in a column `text`",
        "give this name to the column that holds the documents",
    )
    TOO_LONG = (
        "too_long",
        "of more than 2 GB of text",
        "cut it: split --line-bytes=1G FILE NEW_FILE",
    )
    NOT_A_FILE = (
        "not_a_file",
        "not a file",
        "links that lead nowhere or to a folder that is read already, pipes, sockets",
    )

    def __init__(self, key: str, label: str, advice: str | None) -> None:
        self.key = key
        self.label = label
        self.advice = advice


class LeftOutError(Exception):
    """A file that is left out of the corpus, with the reason and a note."""

    def __init__(self, reason: Reason, note: str = "") -> None:
        super().__init__(reason, note)
        self.reason = reason
        self.note = note


class Inventory:
    """What was read into a corpus so far, and what was left out.

    Attributes:
        num_files: How many of the user's files were read, by suffix.
        followed: Links to folders that were followed, by name.
        left_out: How many files or rows were left out, by reason.
        names: The first names of files or rows that were left out, by reason.
    """

    def __init__(self) -> None:
        self.num_files: Counter[str] = Counter()
        self.followed: list[str] = []
        self.left_out: Counter[Reason] = Counter()
        self.names: defaultdict[Reason, list[str]] = defaultdict(list)

    def leave_out(self, reason: Reason, name: str, note: str = "") -> None:
        """Count a file or a row that is not in the corpus, by its name."""
        self.left_out[reason] += 1
        if len(self.names[reason]) < NUM_SHOWN:
            name = _on_one_line(name)
            self.names[reason].append(
                f"{name} ({_on_one_line(note)})" if note else name
            )

    def values(self) -> dict[str, Any]:
        """Return everything as values of JSON, for `add` in another process."""
        return {
            "num_files": self.num_files,
            "followed": self.followed,
            "left_out": {it.name: number for it, number in self.left_out.items()},
            "names": {reason.name: names for reason, names in self.names.items()},
        }

    def add(self, values: Mapping[str, Any]) -> None:
        """Add what was found next in the order of the corpus."""
        self.num_files.update(values["num_files"])
        self.followed += values["followed"]
        for name, number in values["left_out"].items():
            reason = Reason[name]
            self.left_out[reason] += number
            self.names[reason] = [*self.names[reason], *values["names"][name]]
            del self.names[reason][NUM_SHOWN:]

    def metrics(self) -> dict[str, int]:
        """Return how many files and rows were left out, for every possible reason."""
        return {f"left_out_{reason.key}": self.left_out[reason] for reason in Reason}

    def summary(self) -> str:
        """Return in one line how many files were read, and how many were left out."""
        parts = []
        if self.num_files:
            kinds = ", ".join(
                f"{number:,} {_on_one_line(suffix) or 'without suffix'}"
                for suffix, number in self.num_files.most_common(NUM_SHOWN)
            )
            more = ", …" if len(self.num_files) > NUM_SHOWN else ""
            parts.append(f"files read: {kinds}{more}")
        if self.left_out:
            counts = ", ".join(
                f"{self.left_out[reason]:,} {reason.label}"
                for reason in Reason
                if self.left_out[reason]
            )
            parts.append(f"left out: {counts}")
        return "; ".join(parts)

    def advice(self) -> list[str]:
        """Return a line for each reason: the first files, and what can be done.

        Hidden, empty and duplicate files need no advice.
        """
        lines = [
            f"{reason.label}: {_first(self.names[reason], number)}; {reason.advice}"
            for reason in Reason
            if (number := self.left_out[reason]) and reason.advice is not None
        ]
        if self.followed:
            names = [_on_one_line(name) for name in self.followed[:NUM_SHOWN]]
            lines.append(
                f"links followed: {_first(names, len(self.followed))}; DVC "
                f"does not see what changes behind a link to a folder; after a change: "
                f"dvc repro --force --single-item download"
            )
        return lines


def _first(names: list[str], number: int) -> str:
    """Return the first names in one string, with an ellipsis if there are more."""
    return ", ".join(names) + (", …" if number > NUM_SHOWN else "")


def _on_one_line(name: str) -> str:
    """Return a name in a form that any terminal can show."""
    return name if name.isprintable() else ascii(name)
