"""How long does the pipeline take, besides training?

    python -m benchmarks.pipeline no-op    # `dvc repro` with nothing to do
    python -m benchmarks.pipeline start    # until each stage does its first useful work
    python -m benchmarks.pipeline run      # all of `dvc repro --force`, stage by stage

All of it in a clone of this repository, as it is committed, in a temporary folder. For
the first two the pipeline must have run here: the clone gets a copy of its results.
Times are wall time, medians of several rounds; each round runs every command once.
Beside them stand the CPU seconds of all threads: on a busy machine they say more than
wall time.

A stage's first useful work, until which it imports, opens and checks:

    download            the first document is about to be written
    tokenize            the first texts are about to be read
    split               the first document is about to be assigned
    train               the first batch's loss is known, and the trackers are open
    evaluate            the first logits of the test split are about to be computed
    generate-samples    the prompts are about to be continued
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ruamel.yaml import YAML

from benchmarks.measure import RESULTS, Duration, report

PROJECT = Path(__file__).resolve().parents[1]

# The function that does a stage's first useful work, and where the stage looks it up.
# That of the training is timed when it is done, the others when they begin.
FIRST_WORK = {
    "download": ("stages.download", "gather"),
    "tokenize": ("stages.tokenize", "open_documents"),
    "split": ("stages.split", "write_splits"),
    "train": ("toygpt.training.loop", "train_step"),
    "evaluate": ("stages.evaluate", "evaluate"),
    "generate-samples": ("stages.generate_samples", "continue_prompts"),
}
# Runs a stage until its first work, as `python -m` would, and prints the time of it.
UNTIL_FIRST_WORK = """
import sys
sys.argv[0] = "-m"
stage, module, name, when = sys.argv[1:]
import importlib, os, time
stage = importlib.import_module(f"stages.{stage}")
sys.argv[0] = stage.__file__
*owners, name = name.split(".")
owner = importlib.import_module(module)
for part in owners:
    owner = getattr(owner, part)
function = getattr(owner, name)

def first_work(*arguments, **options):
    if when == "done":
        function(*arguments, **options)
    print(time.time(), time.process_time(), flush=True)
    os._exit(0)

setattr(owner, name, first_work)
stage.run(stage.main)
"""


class Times(NamedTuple):
    """The time of a command."""

    seconds: float
    cpu_seconds: float


def cpu_seconds_of_children() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Clone:
    """This repository, as it is committed, in a folder that a benchmark may change."""

    def __init__(self, root: Path, *, is_finished: bool) -> None:
        self.root = root
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(root.parent / "site-cache"),
        }
        # Without them Python would compile all of our modules each time.
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        subprocess.run(["git", "clone", "--quiet", PROJECT, root], check=True)
        if is_finished:
            for folder in (".dvc/cache", "metrics", "data", "models", "reports"):
                shutil.copytree(PROJECT / folder, root / folder, dirs_exist_ok=True)
            # As if the code, as it is, had made all these results.
            self.run("dvc", "commit", "--force", "--quiet")

    def times(self, *command: str) -> Times:
        """Run a command, and return how long it took."""
        began, cpu_began = time.perf_counter(), cpu_seconds_of_children()
        self.run(*command)
        return Times(time.perf_counter() - began, cpu_seconds_of_children() - cpu_began)

    def run(self, *command: str) -> str:
        """Run a command, and return what it printed."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}")
        return done.stdout


def in_rounds(
    cases: Mapping[str, Callable[[], Times]], *, rounds: int
) -> dict[str, list[Times]]:
    """Return how long each of several cases took, in each round."""
    times: dict[str, list[Times]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, case in cases.items():
            taken = case()
            if number:  # the first round finds no compiled modules, and a cold disk
                times[name].append(taken)
            print(f"round {number}: {name}: {taken.seconds:.2f} s", file=sys.stderr)
    return times


def no_op(clone: Clone, *, rounds: int) -> dict[str, list[Times]]:
    """Time `dvc repro` where nothing has changed, and what of it is DVC's own start."""
    output = clone.run("dvc", "repro")
    if "Data and pipelines are up to date" not in output:
        raise SystemExit(
            f"the pipeline is not finished: run `dvc repro` first. It says:\n{output}"
        )
    return in_rounds(
        {
            "dvc repro, nothing to do": lambda: clone.times("dvc", "repro"),
            "dvc status": lambda: clone.times("dvc", "status"),
            "import of dvc.repo": lambda: clone.times(
                sys.executable, "-c", "import dvc.cli, dvc.repo, dvc.commands.repro"
            ),
            "dvc --version": lambda: clone.times("dvc", "--version"),
        },
        rounds=rounds,
    )


def start(clone: Clone, *, rounds: int) -> dict[str, list[Times]]:
    """Time each stage from the start of its process to its first useful work."""

    def until_first_work(stage: str) -> Times:
        module, name = FIRST_WORK[stage]
        script = stage.replace("-", "_")
        # Otherwise the next round would resume the training that this one cuts short.
        shutil.rmtree(clone.root / ".toygpt", ignore_errors=True)
        when = "done" if stage == "train" else "begins"
        command = [sys.executable, "-c", UNTIL_FIRST_WORK, script, module, name, when]
        began = time.time()
        ended, cpu_seconds = clone.run(*command).split()[-2:]
        return Times(float(ended) - began, float(cpu_seconds))

    def case(stage: str) -> Callable[[], Times]:
        return lambda: until_first_work(stage)

    return in_rounds({stage: case(stage) for stage in FIRST_WORK}, rounds=rounds)


def whole_run(clone: Clone, *, max_tokens: int | None) -> dict[str, list[Times]]:
    """Time each stage of `dvc repro --force`, `train` with and without its loop.

    A stage lasts until DVC announces the next one: what DVC does for it is part of it.
    """
    if max_tokens is not None:
        yaml = YAML()
        params = yaml.load(clone.root / "params.yaml")
        params["train"].update(max_tokens=max_tokens, warmup_tokens=0, decay_tokens=0)
        yaml.dump(params, clone.root / "params.yaml")
    began = before = time.perf_counter()
    stage = "until the first stage"
    seconds: dict[str, float] = {}
    with subprocess.Popen(
        ["dvc", "repro", "--force"],
        cwd=clone.root,
        env={**clone.environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Running stage"):
                now = time.perf_counter()
                seconds[stage] = now - before
                stage, before = line.split("'")[1], now
            print(line, end="", file=sys.stderr)
    if process.returncode:
        raise SystemExit(process.returncode)
    ended = time.perf_counter()
    seconds[stage] = ended - before
    loop = seconds_of_loop(clone.root)
    seconds["train"] -= loop
    seconds["everything but the loop"] = ended - began - loop
    seconds["the loop of train"] = loop
    names = {"train": "train, without its loop"}
    return {
        names.get(name, name): [Times(value, math.nan)]
        for name, value in seconds.items()
    }


def seconds_of_loop(root: Path) -> float:
    """Return the time between the first and the last point of the only run's curves.

    The few steps before the first point are left to the rest.
    """
    (path,) = (root / ".toygpt" / "runs").glob("*/metrics.jsonl")
    points = [json.loads(line) for line in path.read_text().splitlines()]
    times = [point["time"] for point in points if point["step"] is not None]
    return float(max(times) - min(times))


QUESTIONS = {
    "no-op": "How long does `dvc repro` take when there is nothing to do?",
    "start": "How long does a stage take until its first useful work?",
    "run": "How long does the default `dvc repro` take, besides the training loop?",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--max-tokens",
        type=int,
        help="for `run`: train on fewer tokens; all but the loop takes as long",
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()

    with TemporaryDirectory() as folder:
        root = Path(folder) / "clone"
        clone = Clone(root, is_finished=options.question != "run")
        times = {
            "no-op": lambda: no_op(clone, rounds=options.rounds),
            "start": lambda: start(clone, rounds=options.rounds),
            "run": lambda: whole_run(clone, max_tokens=options.max_tokens),
        }[options.question]()
    report(
        f"pipeline-{options.question}",
        QUESTIONS[options.question],
        [row(name, taken) for name, taken in times.items()],
        settings={
            "rounds": 1 if options.question == "run" else options.rounds,
            "max_tokens": options.max_tokens or "as in params.yaml",
            "load": f"{os.getloadavg()[1]:.1f} processes want {os.cpu_count()} cores",
        },
        folder=options.out,
    )


def row(name: str, times: Sequence[Times]) -> Duration:
    """Return a row of the table, with the CPU seconds where they were measured."""
    cpu_seconds = statistics.median(each.cpu_seconds for each in times)
    notes: dict[str, float | str] = (
        {} if math.isnan(cpu_seconds) else {"CPU seconds": round(cpu_seconds, 2)}
    )
    return Duration.of(name, [each.seconds for each in times], **notes)


if __name__ == "__main__":
    main()
