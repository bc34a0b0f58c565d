"""What does each step bring that makes training faster?

    python -m benchmarks.ladder                    # nano, on what this machine has
    python -m benchmarks.ladder --model small

Each row adds one step to the row above, in a plain loop with AdamW; the ratio is to the
first row. The ladder on a GPU differs from the ladder on a processor.
"""

import argparse
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.measure import RESULTS, Case, compare, report
from benchmarks.training import TASKS, Task, bare_loop
from toygpt.pipeline.process import ENVIRONMENT


@dataclass(frozen=True)
class Rung:
    """The settings of one row; the defaults are the slowest."""

    precision: str = "32-true"
    attention: str = "from_scratch"
    kernels: str = "plain"
    compiled: bool = False
    keeps_memory: bool = False
    matmul_precision: str = "highest"

    def case(self, task: Task) -> Case:
        """Return the training with these settings, as a case to compare."""
        return partial(
            bare_loop,
            replace(task, precision=self.precision),
            optimizer="adamw",
            compiled=self.compiled,
            attention=self.attention,
            kernels=self.kernels,
            keeps_memory=self.keeps_memory,
            matmul_precision=self.matmul_precision,
        )


def ladder(device: str) -> dict[str, Rung]:
    """Return the rows, the slowest first."""
    rungs = {"32 bits, attention by matrices": (rung := Rung())}
    if device == "cuda":
        rungs["+ TF32"] = rung = replace(rung, matmul_precision="high")
        rungs["+ bf16"] = rung = replace(rung, precision="bf16-mixed")
        rungs["+ flash attention"] = rung = replace(rung, attention="flash")
        rungs["+ compiled"] = rung = replace(rung, compiled=True)
        rungs["+ fused"] = replace(rung, kernels="fused")
        return rungs
    rungs["+ bf16"] = rung = replace(rung, precision="bf16-mixed")
    rungs["+ memory that is kept"] = rung = replace(rung, keeps_memory=True)
    rungs["+ fused (the stage)"] = best = replace(rung, kernels="fused")
    rungs["not taken: + compiled"] = replace(best, compiled=True)
    rungs["not taken: + flash attention"] = replace(best, attention="flash")
    return rungs


def main() -> None:
    """Measure, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=TASKS, default="nano")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--batch-size", type=int, help="sequences (default: as listed)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    task = TASKS[options.model]
    task = replace(task, batch_size=options.batch_size or task.batch_size)
    rungs = ladder(task.device.type)
    report(
        f"ladder-{options.model}-{task.device.type}",
        "What does each step bring that makes training faster?",
        compare(
            {name: rung.case(task) for name, rung in rungs.items()},
            amount=task.tokens_per_round,
            rounds=options.rounds,
            environments={
                name: ENVIRONMENT for name, rung in rungs.items() if rung.keeps_memory
            },
        ),
        unit="tokens",
        settings={"batch_size": task.batch_size, **task.config.__dict__},
        folder=options.out,
    )


if __name__ == "__main__":
    main()
