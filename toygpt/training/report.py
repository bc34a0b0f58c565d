"""The curves of a training: kept for its report, and passed on as they come."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from toygpt.pipeline.files import write_text

# The columns of the two files beside `step` and `tokens_seen`. Both are dense: DVC
# draws an empty cell as zero. A metric that a training does not have (without Muon
# there is no `muon_learning_rate`) is `nan` in each row: DVC draws no line for it, and
# no plot at all where a column is missing. Seconds are in neither file: equal trainings
# write equal files.
TRAIN_METRICS = (
    "train_loss",
    "muon_learning_rate",
    "adamw_learning_rate",
    "gradient_norm",
)
VALIDATION_METRICS = ("validation_loss",)


class MetricsListener(Protocol):
    """Whoever wants to hear of each point as it comes; the trackers do."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Take the metrics of one step."""


class Curves(Logger):
    """Collect what Lightning logs: a row for each point of each curve."""

    def __init__(self, listener: MetricsListener) -> None:
        super().__init__()
        self.listener = listener
        self.train: list[dict[str, float]] = []
        self.validation: list[dict[str, float]] = []

    @property
    def name(self) -> str:
        """The logger's name, for Lightning."""
        return "curves"

    @property
    def version(self) -> int:
        """The logger's version, for Lightning."""
        return 0

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep one point of the curves, and pass it on."""
        assert step is not None, "every metric is logged with its step"
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        for names, rows in (
            (TRAIN_METRICS, self.train),
            (VALIDATION_METRICS, self.validation),
        ):
            known = {name: values[name] for name in names if name in values}
            if known:
                tokens_seen = int(values["tokens_seen"])
                rows.append({"step": step, "tokens_seen": tokens_seen, **known})
        self.listener.log_metrics(values, step=step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Keep nothing: the trackers know all parameters from the start."""

    def state_dict(self) -> dict[str, Any]:
        """Return all points so far, for a checkpoint."""
        return {"train": list(self.train), "validation": list(self.validation)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; whoever listens has heard of these points."""
        self.train[:] = state["train"]
        self.validation[:] = state["validation"]

    def write(self, directory: Path) -> None:
        """Write train.csv and validation.csv."""
        for name, names, rows in (
            ("train", TRAIN_METRICS, self.train),
            ("validation", VALIDATION_METRICS, self.validation),
        ):
            text = io.StringIO()
            table = csv.DictWriter(
                text,
                ["step", "tokens_seen", *names],
                restval="nan",
                lineterminator="\n",
            )
            table.writeheader()
            table.writerows(
                {
                    column: f"{value:.7g}" if isinstance(value, float) else value
                    for column, value in row.items()
                }
                for row in rows
            )
            write_text(directory / f"{name}.csv", text.getvalue())
