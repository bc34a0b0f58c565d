"""The loss curves of two trainings as a picture."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from toygpt.pipeline import paths
from toygpt.pipeline.files import new_file
from toygpt.pipeline.revision import Revision

Curve = tuple[list[float], list[float]]  # tokens seen, nats per token
COLORS = ("gray", "tab:blue")  # of the baseline, of the experiment


def draw_curves(path: Path, before: Revision, now: Revision) -> str:
    """Draw the losses of two trainings, and return the Markdown that shows them.

    Args:
        path: The PNG file; it is not written if there is nothing to draw.
        before: The baseline.
        now: The experiment.
    """
    curves = {revision: _curves(revision) for revision in (before, now)}
    lines = [
        f"The curves of {revision} are not here; those of the workspace come with "
        f"`dvc pull {paths.TRAIN_REPORT}`, if they were pushed."
        for revision, found in curves.items()
        if not found
    ]
    if any(curves.values()):
        with new_file(path) as file:
            file.write(_picture(curves))
        lines = [f"![Training and validation loss]({quote(path.name)})", *lines]
    return "\n\n".join(lines)


def _curves(revision: Revision) -> dict[str, Curve]:
    """Return the training and validation losses; nothing if they are not here."""
    try:
        return {name: _curve(revision, name) for name in ("train", "validation")}
    except (FileNotFoundError, KeyError, ValueError):  # or named otherwise, long ago
        return {}


def _curve(revision: Revision, name: str) -> Curve:
    text = revision.read(paths.TRAIN_REPORT / f"{name}.csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    tokens_seen = [float(row["tokens_seen"]) for row in rows]
    return tokens_seen, [float(row[f"{name}_loss"]) for row in rows]


def _picture(curves: Mapping[Revision, Mapping[str, Curve]]) -> bytes:
    """Return a picture in PNG: training losses pale, validation losses with points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="tokens seen", ylabel="loss (nats per token)")
    for (revision, found), color in zip(curves.items(), COLORS, strict=True):
        for name, curve in found.items():
            style = {"alpha": 0.4} if name == "train" else {"marker": "o"}
            label = f"{revision}: {name}"
            axes.plot(*curve, color=color, label=label, **style)
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
