"""How long does the pipeline take, besides training?

    python -m benchmarks.pipeline no-op    # `dvc repro` with nothing to do
    python -m benchmarks.pipeline start    # until each stage does its first useful work
    python -m benchmarks.pipeline run      # all of `dvc repro --force`, stage by stage

All of it in a clone of this repository, as it is committed, in a temporary folder. For
the first two the pipeline must have run here: the clone gets a copy of what came of it.
Times are wall time, medians of several turns; the commands of a question take turns.

A stage's first useful work, until which it imports, opens and checks:

    download            the first document is about to be written
    tokenize            the first texts are about to be read
    split               the first document is about to be dealt
    train               the first batch's loss is known, and the trackers are open
    evaluate            the first logits of the test split are about to be computed
    generate-samples    the first prompt is about to be continued
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import RESULTS, Duration, report

PROJECT = Path(__file__).resolve().parents[1]

# The function that does a stage's first useful work, and where the stage looks it up.
# That of the training is timed when it is done, the others when they begin.
FIRST_WORK = {
    "download": ("stages.download", "write_documents"),
    "tokenize": ("stages.tokenize", "read_texts"),
    "split": ("stages.split", "write_splits"),
    "train": ("toygpt.training.module", "Training.training_step"),
    "evaluate": ("stages.evaluate", "judge"),
    "generate-samples": ("stages.generate_samples", "continue_prompt"),
}
# Runs a stage until then, as `python -m` would, and says when that was.
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
    print(time.time(), flush=True)
    os._exit(0)

setattr(owner, name, first_work)
stage.run(stage.main)
"""


class Clone:
    """This repository, as it is committed, where a benchmark may do what it likes."""

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
            # As if all this had been made by the code as it is.
            self.run("dvc", "commit", "--force", "--quiet")

    def seconds(self, *command: str) -> float:
        """Run a command, and return how long it took."""
        began = time.perf_counter()
        self.run(*command)
        return time.perf_counter() - began

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


def in_turns(
    ways: Mapping[str, Callable[[], float]], *, turns: int
) -> dict[str, list[float]]:
    """Return the seconds that each of several ways took, in each turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            taken = way()
            if turn:  # the first one finds no compiled modules, and a cold disk
                seconds[name].append(taken)
            print(f"turn {turn}: {name}: {taken:.2f} s", file=sys.stderr)
    return seconds


def no_op(clone: Clone, *, turns: int) -> dict[str, list[float]]:
    """Time `dvc repro` where nothing has changed, and what of it is DVC's own start."""
    said = clone.run("dvc", "repro")
    if "Data and pipelines are up to date" not in said:
        raise SystemExit(
            f"the pipeline is not finished: run `dvc repro` first. It said:\n{said}"
        )
    return in_turns(
        {
            "dvc repro, nothing to do": lambda: clone.seconds("dvc", "repro"),
            "dvc status": lambda: clone.seconds("dvc", "status"),
            "import of dvc.repo": lambda: clone.seconds(
                sys.executable, "-c", "import dvc.cli, dvc.repo, dvc.commands.repro"
            ),
            "dvc --version": lambda: clone.seconds("dvc", "--version"),
        },
        turns=turns,
    )


def start(clone: Clone, *, turns: int) -> dict[str, list[float]]:
    """Time each stage from the start of its process to its first useful work."""

    def seconds_until_first_work(stage: str) -> float:
        module, name = FIRST_WORK[stage]
        script = stage.replace("-", "_")
        # A training that was cut short is no business of the next one.
        shutil.rmtree(clone.root / ".toygpt", ignore_errors=True)
        when = "done" if stage == "train" else "begins"
        command = [sys.executable, "-c", UNTIL_FIRST_WORK, script, module, name, when]
        began = time.time()
        return float(clone.run(*command).split()[-1]) - began

    def way(stage: str) -> Callable[[], float]:
        return lambda: seconds_until_first_work(stage)

    return in_turns({stage: way(stage) for stage in FIRST_WORK}, turns=turns)


def whole_run(clone: Clone) -> dict[str, list[float]]:
    """Time each stage of `dvc repro --force`, of `train` with and without its loop.

    A stage lasts until DVC announces the next one: what DVC does for it is part of it.
    """
    began = before = time.perf_counter()
    stage = "until the first stage"
    seconds: dict[str, list[float]] = {}
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
                seconds[stage] = [now - before]
                stage, before = line.split("'")[1], now
            print(line, end="", file=sys.stderr)
    if process.returncode:
        raise SystemExit(process.returncode)
    ended = time.perf_counter()
    seconds[stage] = [ended - before]
    loop = seconds_of_loop(clone.root)
    seconds["train"] = [seconds["train"][0] - loop]
    return {
        **{
            ("train, but its loop" if k == "train" else k): v
            for k, v in seconds.items()
        },
        "everything but the loop": [ended - began - loop],
        "the loop itself": [loop],
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
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()

    with TemporaryDirectory() as folder:
        root = Path(folder) / "clone"
        clone = Clone(root, is_finished=options.question != "run")
        seconds = {
            "no-op": lambda: no_op(clone, turns=options.turns),
            "start": lambda: start(clone, turns=options.turns),
            "run": lambda: whole_run(clone),
        }[options.question]()
    report(
        f"pipeline-{options.question}",
        QUESTIONS[options.question],
        [Duration.of(name, taken) for name, taken in seconds.items()],
        facts={"turns": 1 if options.question == "run" else options.turns},
        folder=options.out,
    )


if __name__ == "__main__":
    main()
