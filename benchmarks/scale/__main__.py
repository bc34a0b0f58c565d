"""What does it take to train on a corpus that no machine holds?

    python -m benchmarks.scale               # measures, and computes the plan
    python -m benchmarks.scale --plan        # computes it from what was measured before
    python -m benchmarks.scale --dry         # in a minute, to see that all of it runs

Each part leaves a table for docs/scale.md:

stages.py          the data stages with one worker and with two
rates.py           what a core does for each byte, token or block
communication.py   bytes that ranks send one another
plan.py            formulas that lead from these to 300 billion tokens, and to 15 TB
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import RESULTS, Duration, Figures, report
from benchmarks.scale import rates, stages
from benchmarks.scale.communication import bytes_sent, measured_bytes
from benchmarks.scale.plan import (
    BYTES_PER_DOCUMENT,
    BYTES_PER_TOKEN,
    CORPORA,
    HELD_OUT_FRACTION,
    SHARD_BYTES,
    plan_data,
    plan_training,
)
from benchmarks.training import TASKS

WORKER_COUNTS = [1, 2]
# A corpus of this size shows what a stage takes before its first document.
SMALL_MEGABYTES = 4
MEASURED = [
    ("ddp", 2, "32-true"),
    ("ddp", 4, "32-true"),
    ("fsdp", 2, "32-true"),
    ("fsdp", 4, "32-true"),
    ("fsdp", 2, "bf16-mixed"),
]


def main() -> None:
    """Measure, compute, print the tables, write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--plan", action="store_true", help="measure nothing")
    parser.add_argument("--dry", action="store_true", help="small; keep no result")
    parser.add_argument("--megabytes", type=int, default=100, help="of text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.dry:
        with TemporaryDirectory() as folder:
            sizes = {"num_tokens": 10**6, "num_documents": 10**4}
            measure_rates([1, 2], 1, Path(folder), **sizes)
            measure_communication(Path(folder), MEASURED[:1])
            write_plan(Path(folder))
        return
    if not options.plan:
        measure_rates([SMALL_MEGABYTES, options.megabytes], options.rounds, options.out)
        measure_communication(options.out, MEASURED)
    write_plan(options.out)


def write_plan(out: Path) -> None:
    """Compute the plan from what was measured."""
    measured = read_rates(out)
    report(
        "scale-data",
        "What do the data stages take for large corpora?",
        [row for corpus in CORPORA for row in plan_data(corpus, measured)],
        settings={
            "bytes_of_a_token": BYTES_PER_TOKEN,
            "bytes_of_a_document": BYTES_PER_DOCUMENT,
            "shard_bytes": int(SHARD_BYTES),
            "test_fraction": f"{HELD_OUT_FRACTION:g}",
        },
        folder=out,
    )
    report(
        "scale-training",
        f"What does it take to train on {CORPORA[0].name}?",
        plan_training(measured, CORPORA[0]),
        settings={"precision": "bf16-mixed", "optimizer": "muon", "micro_batches": 1},
        folder=out,
    )


def measure_rates(
    megabytes: list[int], rounds: int, out: Path, **sizes_of_loops: int
) -> None:
    """Run the stages on a small corpus and a large one, and the loops in them."""
    sizes = [number * 10**6 for number in megabytes]
    runs = []
    with TemporaryDirectory() as folder:
        for size in sizes:
            project = Path(folder, str(size))
            project.mkdir()
            stages.prepare(project, size)
            workers = WORKER_COUNTS if size == sizes[-1] else [1]
            runs.append(stages.measure(project, workers=workers, rounds=rounds))
        written = sum(
            file.stat().st_size for file in (project / "data/documents").iterdir()
        )
    small, large = runs
    rows = []
    for stage, by_workers in large.items():
        for number, run in by_workers.items():
            ratio = by_workers[1].median_seconds / run.median_seconds
            notes: dict[str, float | str] = {
                "times as fast": f"{ratio:.2f}",
                "CPU seconds": f"{statistics.median(run.cpu_seconds):.1f}",
                "MiB": f"{max(run.peaks) / 2**20:,.0f}",
            }
            rows.append(Duration.of(f"{stage}, {number} workers", run.seconds, **notes))
    settings = {"megabytes": megabytes[1], "shards": stages.SHARDS}
    report(
        "scale-stages",
        "How fast are the data stages with one worker, and with two?",
        rows,
        settings=settings,
        folder=out,
    )
    found = {
        f"{stage}, MB/s": (sizes[1] - sizes[0])
        / (cpu_seconds(large, stage) - cpu_seconds(small, stage))
        / 1e6
        for stage in stages.STAGES
    }
    found |= rates.measure(**sizes_of_loops) | {
        rates.DOCUMENTS_RATIO: written / sizes[1]
    }
    report(
        "scale-rates",
        "What does a core do in a second?",
        [Figures(name, {"measured": f"{value:.3g}"}) for name, value in found.items()],
        settings=settings,
        folder=out,
    )


def cpu_seconds(runs: dict[str, dict[int, stages.Run]], stage: str) -> float:
    """Return what a stage took of a processor, with one worker."""
    return statistics.median(runs[stage][1].cpu_seconds)


def measure_communication(out: Path, cases: list[tuple[str, int, str]]) -> None:
    """Count the bytes that ranks send, and compare them with the formulas."""
    rows = []
    config = TASKS["nano"].config
    for strategy, ranks, precision in cases:
        name = f"{strategy}, {ranks} ranks, {precision}"
        print(name, file=sys.stderr)
        measured = measured_bytes(strategy, ranks, precision=precision)
        formula = bytes_sent(strategy, config, ranks, precision=precision, by_gloo=True)
        rows.append(
            Figures(
                name,
                {
                    "sent by each rank in a step": f"{measured / 1e6:.2f} MB",
                    "by the formula": f"{formula / 1e6:.2f} MB",
                    "ratio": f"{measured / formula:.3f}",
                },
            )
        )
    report(
        "scale-communication",
        "How many bytes do ranks send in a step of training?",
        rows,
        settings={"model": "nano", "weights": config.num_parameters},
        folder=out,
    )


def read_rates(folder: Path) -> dict[str, float]:
    """Return what was measured, from its table."""
    table = json.loads((folder / "scale-rates.json").read_text(encoding="utf-8"))
    return {row["name"]: float(row["notes"]["measured"]) for row in table["rows"]}


if __name__ == "__main__":
    main()
