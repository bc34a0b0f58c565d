"""The report as a page of Markdown: first the verdict, then what it rests on."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from toygpt.pipeline import paths
from toygpt.pipeline.git import git_or_nothing
from toygpt.pipeline.revision import Revision
from toygpt.reporting.comparison import Change, Comparison
from toygpt.reporting.verdict import Verdict

SAMPLES = paths.SAMPLES / "samples.jsonl"
NO_SAMPLES = "There is none of this model: `dvc repro generate-samples` writes some."
MAX_CELL = 60  # characters


def page_of(
    comparison: Comparison, before: Revision, now: Revision, *, curves: str | None
) -> str:
    """Return the page.

    Args:
        comparison: What differs.
        before: The baseline.
        now: The experiment.
        curves: The picture of the curves, as Markdown; None leaves its section out.
    """
    parts = [
        f"# toyGPT: {_title(now)} against {_title(before)}",
        *_verdict(comparison.verdict),
        *_outdated(comparison.outdated_stages),
        "## What changed",
        *_changed(comparison),
        "## Metrics",
        _table("metric", comparison.metrics),
        *(["## Loss", curves] if curves else []),
        "## The first sample",
        *(_sample(now) if comparison.has_own_samples else [NO_SAMPLES]),
    ]
    return "\n\n".join(parts) + "\n"


def _title(revision: Revision) -> str:
    """Return a revision's name, with its commit if Git knows the name."""
    if revision.name is None:
        return str(revision)
    verify = ("rev-parse", "--verify", "--quiet", "--short", "--end-of-options")
    commit = git_or_nothing(revision.root, *verify, f"{revision.name}^{{commit}}")
    is_known = commit and not revision.name.startswith(commit)
    return f"`{revision}` ({commit})" if is_known else f"`{revision}`"


def _verdict(verdict: Verdict) -> Iterator[str]:
    """Yield what a reviewer asks first: is it better, by how much, is it sure."""
    now, before = verdict.now, verdict.before
    number = f"{now.bits_per_byte:.3f} bits per byte"
    results = f"{number}, before {before.bits_per_byte:.3f}"
    if verdict.word == "not comparable":
        yield (
            f"**Not comparable: {results}, but not on the same test.** The text of the "
            f"test split differs, or `evaluate.overlap_fraction`."
        )
        return
    if not verdict.is_same_code:
        yield (
            "**Two measures:** the code of `evaluate` differs between the two results. "
            "`python . report --paired` takes both with the code that is here."
        )
    if verdict.word == "equal":
        yield f"**Equal: {number} on the same test split.**"
        return
    certainty, explanation = _certainty(verdict)
    relative = verdict.difference / before.bits_per_byte
    yield (
        f"**{verdict.word.capitalize()}: {results}, on the same test split "
        f"({verdict.difference:+.3f}, {relative:+.1%}; {certainty}).**"
    )
    yield explanation


def _certainty(verdict: Verdict) -> tuple[str, str]:
    """Return whether the difference is noise, in three words, and what noise is."""
    noise = f"a difference of more than {verdict.noise:.3f}: two standard errors"
    if verdict.paired_error is not None:
        return (
            f"{'beyond' if verdict.is_beyond_noise else 'within'} noise",
            f"Beyond noise is {noise}, with both models on the same documents. Other "
            f"seeds are not part of it.",
        )
    before, now = verdict.before.standard_error, verdict.now.standard_error
    return (
        f"{'' if verdict.is_beyond_noise else 'not '}surely beyond noise",
        f"Surely beyond noise is {noise} of two independent results (± {now:.3f}, "
        f"before ± {before:.3f}). Both models find the same documents hard, so a "
        f"smaller one may be real as well; to find out: `python . report --paired`.",
    )


def _outdated(stages: Sequence[str]) -> Iterator[str]:
    if stages:
        yield (
            f"**Not up to date:** something changed since {', '.join(stages)} ran, so "
            f"the numbers may be of other parameters, code or data than those here. "
            f"`dvc repro` renews them."
        )


def _changed(comparison: Comparison) -> Iterator[str]:
    yield _table("parameter", comparison.params)
    if comparison.inputs:
        names = ", ".join(f"`{path}`" for path in comparison.inputs)
        yield f"Code and data that differ, by the digests in dvc.lock: {names}."
    else:
        yield "Code and data are the same, by the digests in dvc.lock."


def _table(kind: str, changes: Sequence[Change]) -> str:
    """Return a table of what differs, with the change of numbers."""
    if not changes:
        return f"Each {kind} is as before."
    rows = [
        f"| `{c.name}` | {_cell(c.before)} | {_cell(c.now)} | {_difference(c)} |"
        for c in changes
    ]
    header = [f"| {kind} | before | now | change |", "|---|--:|--:|--:|"]
    return "\n".join([*header, *rows])


def _cell(value: Any) -> str:
    """Return a value for a cell, in which Markdown has no special characters."""
    if value is None:
        return "-"
    if _is_number(value):
        return _number(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split()).replace("|", "\\|").replace("`", "'") or '""'
    return f"`{text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + '…'}`"


def _difference(change: Change) -> str:
    """Return the change of a number, absolute and relative."""
    if not _is_number(change.before) or not _is_number(change.now):
        return ""
    difference = change.now - change.before
    relative = f" ({difference / change.before:+.1%})" if change.before else ""
    return f"{'+' if difference > 0 else ''}{_number(difference)}{relative}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: float) -> str:
    """Return a number with four digits that count; a count with all of them."""
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _sample(now: Revision) -> Iterator[str]:
    """Yield the first prompt of params.yaml, and what the model writes after it."""
    try:
        sample = json.loads(now.read(SAMPLES).partition("\n")[0])
        texts = {"Given": sample["prompt"], "Written": sample["continuation"]}
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        yield f"Not here: `dvc pull {paths.SAMPLES}` fetches it, if it was pushed."
        return
    for heading, text in texts.items():
        fence = "```"
        while fence in text:
            fence += "`"
        yield f"{heading}:\n\n{fence}\n{text.strip(chr(10))}\n{fence}"
