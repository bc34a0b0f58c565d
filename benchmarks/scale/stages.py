"""How fast are the data stages with one worker, and with two?

The real stages run, each in a process of its own, in a copy of params.yaml's project.
The text is Python's sources, and copies of them with other words, as lines of JSON in
several files; the vocabulary is learned beforehand, from a little of it.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from benchmarks.text import documents
from toygpt.data.tokenizer import END_OF_TEXT, save_tokenizer, train_tokenizer
from toygpt.pipeline import paths

PROJECT = Path(__file__).resolve().parents[2]
STAGES = ["download", "tokenize", "split"]
INPUT_FILES = 8
SHARDS = 10
LEARNED_FROM = 300  # documents
VOCAB_SIZE = 2_048
HELD_OUT_FRACTION = 0.01
PAUSE_SECONDS = 0.05


@dataclass
class Run:
    """What a stage took, in each round."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)  # bytes, of all its processes

    @property
    def median_seconds(self) -> float:
        """The median of all rounds."""
        return statistics.median(self.seconds)


def prepare(folder: Path, num_bytes: int) -> None:
    """Write parameters, a tokenizer and the text into a folder."""
    texts = folder / "texts"
    texts.mkdir()
    files = [(texts / f"{number}.jsonl").open("w") for number in range(INPUT_FILES)]
    for number, document in enumerate(documents(num_bytes)):
        row = {"text": document.text, "group": document.group}
        files[number % INPUT_FILES].write(json.dumps(row) + "\n")
    for file in files:
        file.close()
    few = [document.text for document in islice(documents(num_bytes), LEARNED_FROM)]
    tokenizer = train_tokenizer(iter([few]), vocab_size=VOCAB_SIZE)
    save_tokenizer(tokenizer, folder / "tokenizer", end_of_text=END_OF_TEXT)
    set_params(
        folder,
        {
            "corpus": "files",
            "download.shard_bytes": num_bytes // SHARDS,
            "tokenize.tokenizer": str(folder / "tokenizer"),
            "split.validation_fraction": HELD_OUT_FRACTION,
            "split.test_fraction": HELD_OUT_FRACTION,
        },
        source=PROJECT / paths.PARAMS,
    )


def set_params(
    folder: Path, values: dict[str, Any], *, source: Path | None = None
) -> None:
    """Change parameters of the folder, or those of another params.yaml."""
    yaml = YAML()
    params = yaml.load(source or folder / paths.PARAMS)
    for key, value in values.items():
        *sections, name = key.split(".")
        section = params
        for each in sections:
            section = section[each]
        section[name] = value
    yaml.dump(params, folder / paths.PARAMS)


def measure(
    folder: Path, *, workers: list[int], rounds: int
) -> dict[str, dict[int, Run]]:
    """Return what each stage took, by the number of its workers."""
    found = {stage: {number: Run() for number in workers} for stage in STAGES}
    for _ in range(rounds):
        for stage in STAGES:
            for number in workers:
                set_params(folder, {"runtime.data_workers": number})
                run_stage(folder, stage, found[stage][number])
    return found


def run_stage(folder: Path, stage: str, run: Run) -> None:
    """Run a stage, and note what it took."""
    began, cpu_before = time.perf_counter(), cpu_seconds_of_children()
    process = subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=folder,
        # The code is not in that folder.
        env=os.environ | {"PYTHONPATH": str(PROJECT), "RAYON_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(own_memory(process.pid)))
        time.sleep(PAUSE_SECONDS)
    if process.returncode:
        raise SystemExit(f"{stage} ended with {process.returncode}")
    run.seconds.append(time.perf_counter() - began)
    run.cpu_seconds.append(cpu_seconds_of_children() - cpu_before)
    run.peaks.append(peak)


def cpu_seconds_of_children() -> float:
    """Return the CPU seconds of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def own_memory(root: int) -> Iterator[int]:
    """Yield what each process below one holds of its own, without mapped files."""
    try:
        tree = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            continue
        for line in status.splitlines():
            if line.startswith("RssAnon:"):
                yield int(line.split()[1]) * 1024
