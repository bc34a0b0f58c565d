"""The curves of a training: collected for its report, and logged as they grow."""

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

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


class MetricsLogger(Protocol):
    """An object with this method, as the run of the trackers has it."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log the metrics of one step."""


class Curves:
    """A row for each point of each curve.

    Args:
        logger: Gets every point as well, at once; None on ranks above zero.
    """

    def __init__(self, logger: MetricsLogger | None = None) -> None:
        self.logger = logger
        self.train: list[dict[str, float]] = []
        self.validation: list[dict[str, float]] = []

    def add(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Add a point; its metrics say which curve it belongs to."""
        for names, rows in (
            (TRAIN_METRICS, self.train),
            (VALIDATION_METRICS, self.validation),
        ):
            known = {name: metrics[name] for name in names if name in metrics}
            if known:
                tokens_seen = int(metrics["tokens_seen"])
                rows.append({"step": step, "tokens_seen": tokens_seen, **known})
        if self.logger is not None:
            self.logger.log_metrics(metrics, step=step)

    def state_dict(self) -> dict[str, Any]:
        """Return all points so far, for a checkpoint."""
        return {"train": list(self.train), "validation": list(self.validation)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there; the logger has these points already."""
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


class Speedometer:
    """Measures how fast training was since the last report."""

    def __init__(self, tokens_seen: int) -> None:
        self._tokens_seen = tokens_seen
        self._time = time.perf_counter()

    def tokens_per_second(self, tokens_seen: int) -> float:
        """Return the mean speed since the last call."""
        before, self._tokens_seen = self._tokens_seen, tokens_seen
        start, self._time = self._time, time.perf_counter()
        return (tokens_seen - before) / (self._time - start)
