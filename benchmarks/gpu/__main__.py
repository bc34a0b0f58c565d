"""Everything to be known of a GPU, in one command of at most eight minutes.

    python3 -m benchmarks.gpu --out FOLDER                 # on a machine with a GPU
    python3 -m benchmarks.gpu --out FOLDER --only ladder   # one part; the others stay
    python3 -m benchmarks.gpu --out FOLDER --dry-run       # anywhere, at tiny sizes

Where the time on the GPU is short, see first that all is right, then measure:

    python3 -m benchmarks.gpu --out FOLDER --only correctness
    python3 -m benchmarks.gpu --out FOLDER --only ladder peers models text --minutes 6

The machine needs torch 2.11 or later, lightning, transformers, tokenizers, numpy,
pyarrow, safetensors, psutil, jaxtyping and tqdm. FOLDER gets a JSON file, named after
the card, and the log of all parts. A file in benchmarks/results/ is shown in
docs/performance.md by `python -m benchmarks.page`.
"""

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import Part, run_part
from benchmarks.gpu.setup import Setup
from benchmarks.measure import Figures, table

# Of each part: its outcome, seconds and tables.
Results = dict[str, dict[str, Any]]

MINUTES = 8.0
PARTS = [
    Part("correctness", "benchmarks.gpu.correctness:measure", 110),
    Part("ladder", "benchmarks.gpu.ladder:measure", 100),
    Part("peers", "benchmarks.gpu.peers:measure", 75),
    Part("models", "benchmarks.gpu.models:measure", 95),
    Part("text", "benchmarks.gpu.text:measure", 60),
]
SECONDS_TO_END = 10
# Three or four networks are compiled at the same time, on some sixteen cores.
THREADS_OF_A_COMPILER = "8"
# Imported once by the server whose forks are the parts of a dry run.
LIBRARIES = ["benchmarks.gpu.correctness", "torch._dynamo"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, write the file, print the tables; return the exit code."""
    options = parse(arguments)
    began = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "gpu.log"
    log.unlink(missing_ok=True)
    get_context("forkserver").set_forkserver_preload(LIBRARIES)
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", THREADS_OF_A_COMPILER)
    chosen = [part for part in PARTS if part.name in options.only]
    results: Results = {}
    with tempfile.TemporaryDirectory() as name:
        # What is compiled once is not compiled again, and earlier runs do not count.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(name) / "compiled")
        for number, part in enumerate(chosen):
            tables = Path(name) / part.name
            tables.mkdir()
            left = 60 * options.minutes - SECONDS_TO_END - (time.monotonic() - began)
            later = sum(other.seconds for other in chosen[number + 1 :])
            limit = max(1.0, min(left, max(part.seconds, left - later)))
            print(f"{part.name}: at most {limit:.0f} s", flush=True)
            setup = Setup(options.dry_run, options.text, tables)
            outcome = run_part(part, setup, limit=limit, log=log)
            print(f"{part.name}: {outcome.outcome}, {outcome.seconds} s", flush=True)
            results[part.name] = {**asdict(outcome), "tables": read_tables(tables)}
            write(results, options.out, is_dry_run=options.dry_run)
    print_tables(results)
    return int(any(part["outcome"] != "done" for part in results.values()))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0]
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--text", type=Path, help="folder of texts to learn from")
    parser.add_argument("--dry-run", action="store_true", help="tiny, on any machine")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    return parser.parse_args(arguments)


def read_tables(folder: Path) -> list[dict[str, Any]]:
    """Return what a part has reported, in that order."""
    tables = []
    for file in sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns):
        with suppress(ValueError):  # the part was stopped while it wrote this one
            tables.append(json.loads(file.read_text(encoding="utf-8")))
    return tables


def write(results: Results, folder: Path, *, is_dry_run: bool) -> None:
    """Write the file of the card; parts in it that were not run now stay."""
    tables = [table for part in results.values() for table in part["tables"]]
    if is_dry_run or not tables:  # without a table, the card is unknown
        card = "dry-run" if is_dry_run else "unknown"
    else:
        card = re.sub(r"[^a-z0-9]+", "-", tables[0]["machine"]["device"].lower())
        (folder / "gpu-unknown.json").unlink(missing_ok=True)
    path = folder / f"gpu-{card}.json"
    parts = dict(results)
    if path.exists():
        parts = json.loads(path.read_text(encoding="utf-8"))["parts"] | parts
    # In the order of the parts, not in that of their measurement.
    ordered = {part.name: parts[part.name] for part in PARTS if part.name in parts}
    text = json.dumps({"parts": ordered}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def print_tables(results: Results) -> None:
    """Print all tables of the parts that were run, and how each part ended."""
    for part in results.values():
        for result in part["tables"]:
            print(f"\n{result['question']}\n{table(result)}")
    notes = ("outcome", "seconds")
    rows = [
        Figures(name, {note: part[note] for note in notes})
        for name, part in results.items()
    ]
    print(f"\n{table({'rows': [asdict(row) for row in rows]})}")


if __name__ == "__main__":
    raise SystemExit(main())
