"""Draw docs/images/performance.svg: how many times as fast as what one would pick.

    python -m benchmarks.picture

The figures are those of benchmarks/results/, medians of ratios within each round.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import RESULTS
from toygpt.pipeline.files import write_text

PICTURE = Path("docs/images/performance.svg")
INK, OURS, THEIRS = "#1f2328", "#2f6f4f", "#8c959f"


class Comparison(NamedTuple):
    """Two rows of a result, one of them ours."""

    what: str
    beside: str
    result: str
    ours: str
    theirs: str


STAGE = "toyGPT stage, AdamW"
COMPARISONS = [
    Comparison(
        "training nano, AdamW",
        "transformers' Trainer",
        "training-nano-cpu",
        STAGE,
        "transformers Trainer",
    ),
    Comparison(
        "training nano, AdamW",
        "a compiled plain loop",
        "training-nano-cpu",
        STAGE,
        "plain loop, compiled, AdamW",
    ),
    Comparison(
        "training nano, AdamW",
        "litgpt's network, compiled",
        "training-nano-cpu",
        STAGE,
        "litgpt, plain loop, compiled, AdamW",
    ),
    *(
        Comparison(
            f"tokenizing, {whose} vocabulary",
            "datasets.map",
            f"tokenizing-{kind}",
            "toyGPT's stage",
            "datasets.map, one process",
        )
        for whose, kind in (("our", "trained"), ("GPT-2's", "pretrained"))
    ),
    *(
        Comparison(
            f"generating, {model}, {sequences} at once",
            "transformers' generate",
            f"generation-{model}-{sequences}-cpu",
            "toyGPT",
            "transformers generate",
        )
        for model in ("nano", "small")
        for sequences in (1, 16)
    ),
    Comparison(
        "evaluating nano",
        "the forward pass alone",
        "evaluation-nano-cpu",
        "toyGPT evaluates",
        "forward pass alone",
    ),
]


def times_as_fast(comparison: Comparison) -> float:
    """Return how many times as fast ours is, by the newest result."""
    path = RESULTS / f"{comparison.result}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    ratios = {row["name"]: row["ratio"] for row in rows}
    return float(ratios[comparison.ours] / ratios[comparison.theirs])


def label(ratio: float) -> str:
    """Return a ratio as it is written beside its bar."""
    return f"{ratio:.2g} times" if ratio >= 10 else f"{ratio:.2f} times"


def main() -> None:
    """Draw the picture."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    # Text that is text, and the same bytes each time.
    rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "toyGPT"})
    ratios = [times_as_fast(comparison) for comparison in COMPARISONS]
    names = [f"{each.what}\nbeside {each.beside}" for each in COMPARISONS]
    figure = Figure(figsize=(8, 6), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    gains = [ratio - 1 for ratio in ratios]
    axes.barh(names, gains, left=1, color=OURS, height=0.6)
    for row, ratio in enumerate(ratios):  # of a bar to the left, where it begins
        axes.annotate(
            label(ratio),
            (max(ratio, 1), row),
            xytext=(4, 0),
            textcoords="offset points",
            verticalalignment="center",
            color=INK,
        )
    axes.axvline(1, color=THEIRS, linestyle="--")
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(0.9, 40)
    axes.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.minorticks_off()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, colors=INK)
    axes.set_title("toyGPT on two cores, beside what one would pick instead", color=INK)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    lines = [line.rstrip() for line in drawn.getvalue().splitlines()]
    write_text(PICTURE, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
